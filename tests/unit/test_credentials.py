"""Credentials: secrets from files, and URLs that say how TLS is checked."""

from pathlib import Path

import pytest
from redis.asyncio.connection import parse_url

from app.credentials import MOST_BYTES, checked_by_tls
from app.errors import SettingsError
from app.settings import Settings, secret_names


def load(environ: dict[str, str]) -> Settings:
    return Settings.load(environ, env_file=None)


def test_every_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    environ = {}
    for name in secret_names():
        file = tmp_path / name
        shards = name == "REDIS_QUEUE_SHARDS"
        file.write_text(f"mail=redis://:hush-{name}@b:1\n" if shards else f"hush-{name}\n")
        environ[f"{name}_FILE"] = str(file)

    settings = load(environ)

    assert len(secret_names()) == 7
    assert {s for s in settings.secrets() if s} == {f"hush-{name}" for name in secret_names()}
    assert settings.url("queue") == "redis://:hush-REDIS_PASSWORD@127.0.0.1:6381/0"
    assert "hush" not in repr(settings)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("hush")

    with pytest.raises(SettingsError, match="API_KEY and API_KEY_FILE are both set"):
        load({"API_KEY": "hush", "API_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "one line"),
        (b" \n", "one line"),
        (b"a\nb\n", "one line"),
        (b"a\0b", "one line"),
        (b"\xff\xfe", "not text"),
        (b"x" * (MOST_BYTES + 1), "larger"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, word: str
) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(SettingsError, match=f"API_KEY_FILE=.*{word}") as caught:
        load({"API_KEY_FILE": str(file)})

    assert "xxx" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"REDIS_PASSWORD_FILE=.*nowhere.*may read"):
        load({"REDIS_PASSWORD_FILE": str(tmp_path / "nowhere")})


def test_a_mistyped_secret_file_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match="did you mean ARQSCOPE_PAYLOAD_KEY_FILE"):
        load({"ARQSCOPE_PAYLOD_KEY_FILE": "/nowhere"})


def test_a_bad_secret_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"CONCURRENCY": "0", "API_KEY": "hush"}, env_file=None)

    assert "hush" not in str(caught.value)


def test_tls_checks_the_host_name(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("ca")

    settings = load(
        {
            "REDIS_QUEUE_URL": "rediss://worker@redis-queue:6379/0",
            "REDIS_PASSWORD": "p/w",
            "ARQSCOPE_REDIS_CA": str(ca),
        }
    )

    found = parse_url(settings.url("queue"))
    assert found["ssl_check_hostname"] is True
    assert (found["ssl_cert_reqs"], found["ssl_ca_certs"]) == ("required", str(ca))
    assert (found["username"], found["password"], found["host"]) == ("worker", "p/w", "redis-queue")
    assert settings.url("cache") == "redis://:p%2Fw@127.0.0.1:6379/0"


def test_what_a_url_says_of_tls_wins() -> None:
    url = checked_by_tls("rediss://h:1/0?ssl_ca_certs=/own", ca=Path("/ours"))

    assert parse_url(url)["ssl_ca_certs"] == "/own"


def test_a_certificate_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ARQSCOPE_REDIS_CA"):
        load({"ARQSCOPE_REDIS_CA": str(tmp_path / "none.pem")})
