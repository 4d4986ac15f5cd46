"""Credentials: secrets that lie in files, and what TLS connections to Redis are checked by. Pure but for reading.

A secret in an environment variable shows in ``docker inspect`` and in ``/proc``; one in a file does
not. Where ``NAME`` is a secret, ``NAME_FILE`` names the file that holds it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from app.errors import SettingsError

SUFFIX: Final = "_FILE"
#: a key or password is short; a larger file is not one
MOST_BYTES: Final = 16_384


def with_secret_files(values: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """Return *values* with every ``NAME_FILE`` of *secrets* replaced by the ``NAME`` its file holds.

    Raises SettingsError when both are set, or when the file is missing, empty or too large.
    """
    found = dict(values)
    for name in secrets:
        path = found.pop(name + SUFFIX, "")
        if not path:
            continue
        if found.get(name):
            raise SettingsError(f"{name} and {name}{SUFFIX} are both set: keep one of them")
        found[name] = _secret_in(Path(path), name + SUFFIX)
    return found


def _secret_in(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(
            f"{variable}={path}: cannot be read ({error.strerror}); it must be a file this process "
            "may read"
        ) from error
    if len(raw) > MOST_BYTES:
        raise SettingsError(f"{variable}={path}: larger than {MOST_BYTES} bytes, not a secret")
    try:
        text = raw.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{variable}={path}: is not text") from error
    if not text or "\n" in text or "\0" in text:
        raise SettingsError(f"{variable}={path}: must hold one line of text, the secret")
    return text


def checked_by_tls(
    url: str, *, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> str:
    """Return a ``rediss://`` *url* that says how its server is checked; others as they are.

    redis-py leaves the host name unchecked unless told to, so this tells it. What the URL says of
    itself wins.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("rediss", "rediss+sentinel"):
        return url
    query = {"ssl_cert_reqs": "required", "ssl_check_hostname": "true"}
    named = {"ssl_ca_certs": ca, "ssl_certfile": cert, "ssl_keyfile": key}
    query |= {name: str(path) for name, path in named.items() if path is not None}
    query |= dict(parse_qsl(parts.query))
    return urlunsplit(parts._replace(query=urlencode(query)))
