"""Settings of the Redis servers: where they are, what they are asked with, how TLS is checked."""

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator

from app.credentials import checked_by_tls
from app.errors import SettingsError
from app.sentinels import check_address, watches


class RedisServers(BaseModel):
    """The three roles of Redis, and further queue servers."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0", description="cache role: pub/sub, alert lists, sessions"
    )
    redis_streams_url: str = Field(
        default="redis://127.0.0.1:6380/0", description="event streams role"
    )
    redis_queue_url: str = Field(default="redis://127.0.0.1:6381/0", description="job queue role")
    redis_queue_shards: SecretStr | None = Field(
        default=None,
        description="further queue servers and their queues: reports,mail-*=redis://host:6379/0 …",
    )
    redis_password: SecretStr | None = Field(
        default=None, description="used where a URL has no password"
    )
    redis_sentinel_password: SecretStr | None = Field(
        default=None, description="password of the sentinels of redis+sentinel:// URLs"
    )
    redis_ca: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_REDIS_CA", "redis_ca"),
        description="certificates rediss:// servers are checked against; not set: the system's",
    )
    redis_cert: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_REDIS_CERT", "redis_cert"),
        description="our own certificate, for rediss:// servers that ask for one",
    )
    redis_cert_key: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_REDIS_CERT_KEY", "redis_cert_key"),
        description="file with the key of that certificate",
    )

    @field_validator("redis_url", "redis_streams_url", "redis_queue_url")
    @classmethod
    def _url_is_redis(cls, url: str) -> str:
        try:
            check_address(url)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return url

    @field_validator("redis_ca", "redis_cert", "redis_cert_key")
    @classmethod
    def _file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("there is no such file")
        return path

    def complete(self, url: str) -> str:
        """Return *url* with what it does not say itself: password, sentinels' password, files TLS is checked by."""
        url = checked_by_tls(url, ca=self.redis_ca, cert=self.redis_cert, key=self.redis_cert_key)
        parts = urlsplit(url)
        if self.redis_sentinel_password is not None and watches(url):
            said = urlencode({"sentinel_password": self.redis_sentinel_password.get_secret_value()})
            parts = parts._replace(query=f"{parts.query}&{said}".strip("&"))
            url = urlunsplit(parts)
        if self.redis_password is None or parts.password is not None or parts.scheme == "unix":
            return url
        user = parts.username or ""
        secret = quote(self.redis_password.get_secret_value(), safe="")
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{user}:{secret}@{host}"))


def masked_url(url: str) -> str:
    """Return *url* with its passwords replaced by ``***``."""
    parts = urlsplit(url)
    if "password=" in parts.query:
        query = re.sub(r"(password=)[^&]*", r"\1***", parts.query)
        parts = parts._replace(query=query)
        url = urlunsplit(parts)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{unquote(parts.username or '')}:***@{host}"))
