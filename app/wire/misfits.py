"""Misfits: a Redis URL its server refuses for good, told by setting, value and remedy. Pure.

A server that is away may come back. A wrong password, a database that does not exist or a certificate
nobody trusts does not change by waiting: somebody has to change a setting, here or there.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from app.settings import masked_url

#: what Redis or TLS says, and what is to be done about it; {password} and {address} are names of settings
_REMEDIES: Final = (
    (
        ("invalid username-password", "WRONGPASS", "invalid password"),
        "put the server's password, and its user if it is not default, into {password}",
    ),
    (
        ("Authentication required", "NOAUTH"),
        "the server wants a password: set {password}",
    ),
    (
        ("without any password configured",),
        "the server has no password: take it out of {password}, or give it one with requirepass",
    ),
    (
        ("DB index is out of range", "invalid DB index", "SELECT is not allowed"),
        "end {address} in a database the server has: /0 up to its `databases` less 1, in a cluster /0 alone",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed", "Hostname mismatch"),
        "name the authority that signed the server's certificate in ARQSCOPE_REDIS_CA, and the host as the "
        "certificate does in {address}",
    ),
    (
        ("WRONG_VERSION_NUMBER", "wrong version number"),
        "the server does not speak TLS on this port: redis:// instead of rediss:// in {address}, or its TLS port",
    ),
    (
        ("Protocol Error", "Invalid RESP", "unknown reply type"),
        "what listens there is no Redis: mend host and port in {address}",
    ),
)
_RIGHTS: Final = "give the user the rights in the server's ACL, or another user in {address}"
_LOGIN: Final = "mend {password}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """What is wrong with one server's URL."""

    setting: str  #: the setting to look at first
    url: str  #: its value, the password masked
    said: str  #: what the server, or TLS, said
    remedy: str

    def __str__(self) -> str:
        return f"{self.setting}: Redis at {self.url} says: {self.said.rstrip('.')}; {self.remedy}"


def misfit_of(
    error: BaseException,
    url: str,
    *,
    address: str = "the URL",
    password: str = "the URL",  # noqa: S107 - a setting's name
) -> Misfit | None:
    """What *error* says of *url*, given by the settings *address* and *password*; None: waiting may help."""
    if not isinstance(error, (RedisError, OSError)):
        return None
    said = str(error)[:300]
    remedy = next(
        (told for words, told in _REMEDIES if any(word in said for word in words)),
        "",
    )
    if not remedy and isinstance(error, AuthenticationError):
        remedy = _LOGIN
    if not remedy and (isinstance(error, NoPermissionError) or "NOPERM" in said):
        remedy = _RIGHTS
    if not remedy:
        return None
    return Misfit(
        setting=password if "{password}" in remedy else address,
        url=masked_url(url),
        said=said,
        remedy=remedy.format(address=address, password=password),
    )


def guess_of(error: BaseException, url: str, *, address: str) -> str:
    """What may be wrong with *url* when the server is merely silent: TLS on one side alone looks like that."""
    if urlsplit(url).scheme in ("rediss", "rediss+sentinel") and "imeout" in str(error):
        return f"if it speaks no TLS: redis:// in {address}"
    if urlsplit(url).scheme == "redis" and "closed by server" in str(error):
        return f"if it speaks TLS alone: rediss:// in {address}"
    return f"start it, or mend {address}"
