"""Settings, read once at the door into one frozen object that travels as an argument.

The only module (with ``embedded``, which hands its processes an environment) that looks at the
environment. Sources, strongest first: the environment, ``.env``, ``arqscope.toml`` (queues only).
"""

import os
import socket
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from app.credentials import with_secret_files
from app.declarations import DEAD_LETTER_QUEUE, queues_of, read_toml, streams_of
from app.errors import SettingsError
from app.placement import AT_HOME, HOME, Placement
from app.settings.environment import (
    explained,
    field_of,
    read_env_file,
    refuse_unknown,
    secrets_of,
    variables_of,
)
from app.settings.redis_servers import RedisServers, masked_url
from app.settings.web import Web
from app.settings.work import Work


class Settings(Web, Work, RedisServers):
    """Everything an operator may change; every field has a safe default.

    The specification's names come without prefix (``REDIS_URL``), ours with ``ARQSCOPE_``.
    """

    environment: str = Field(default="development", description="name shown in the header")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")
    log_format: Literal["console", "json"] = Field(
        default="console",
        validation_alias=AliasChoices("ARQSCOPE_LOG_FORMAT", "log_format"),
        description="console: a line for people; json: one object per line",
    )
    sample_interval_s: float = Field(
        default=1.0,
        ge=0.1,
        le=60,
        validation_alias=AliasChoices("ARQSCOPE_SAMPLE_INTERVAL_S", "sample_interval_s"),
        description="s between two samples of the collector",
    )
    keep_history: bool = Field(
        default=True,
        validation_alias=AliasChoices("ARQSCOPE_KEEP_HISTORY", "keep_history"),
        description="write history and the samples servers share to the queue Redis",
    )
    alert_channels: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_ALERT_CHANNELS", "alert_channels"),
        description="where alerts are sent: name=apprise-address, separated by spaces",
    )
    alert_hosts: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_ALERT_HOSTS", "alert_hosts"),
        description="hosts alerts may be sent to, e.g. hooks.example.com *.example.org 10.1.2.0/24",
    )
    accept_hazards: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_ACCEPT_HAZARDS", "accept_hazards"),
        description="start on a Redis that may lose accepted work: eviction, replicas-of-nothing",
    )
    config_file: Path = Field(
        default=Path("arqscope.toml"),
        validation_alias=AliasChoices("ARQSCOPE_CONFIG_FILE", "config_file"),
        description="TOML file with further queues, streams, rules and alerts",
    )
    data_dir: Path = Field(
        default=Path(".arqscope"),
        validation_alias=AliasChoices("ARQSCOPE_DATA_DIR", "data_dir"),
        description="where the embedded stack keeps its data, and spilled dead letters lie",
    )

    @model_validator(mode="after")
    def _queues_are_placed(self) -> Self:
        _ = self.placement  # a mistake in it is told here, not at its first use
        return self

    @field_validator("log_level")
    @classmethod
    def _level_is_known(cls, level: str) -> str:
        if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("one of DEBUG, INFO, WARNING, ERROR")
        return level.upper()

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, *, env_file: Path | None = Path(".env")
    ) -> "Settings":
        """Read the environment (or *environ*), then *env_file*, then the TOML file.

        Raises SettingsError, naming the variable, its value (never a secret) and the remedy.
        """
        world = os.environ if environ is None else environ
        values = {**read_env_file(env_file), **{k: v for k, v in world.items() if v != ""}}
        refuse_unknown(cls, values)
        values = with_secret_files(values, secrets_of(cls))
        wanted = {name: values[name] for name in variables_of(cls) if name in values}
        arguments: dict[str, Any] = {
            field_of(name): (None if value == "" else value) for name, value in wanted.items()
        }
        config_file = Path(arguments.get("config_file", cls.model_fields["config_file"].default))
        if config_file.exists():
            table = read_toml(config_file)
            arguments["queues"] = queues_of(table, config_file)
            arguments["declared_streams"] = streams_of(table, config_file)
        try:
            return cls(**arguments)
        except ValidationError as error:
            raise SettingsError(explained(cls, error)) from error

    @cached_property
    def placement(self) -> Placement:
        """Which queue server holds which queue."""
        if self.redis_queue_shards is None:
            return AT_HOME
        try:
            return Placement.parse(
                self.redis_queue_shards.get_secret_value(),
                home=self.redis_queue_url,
                taken=(self.dlq_queue_name, DEAD_LETTER_QUEUE, *self.stream_names),
            )
        except SettingsError as error:
            raise SettingsError(f"REDIS_QUEUE_SHARDS: {error}") from error

    def url_of_queue(self, queue: str) -> str:
        """URL of the server that holds *queue*."""
        return self.url(self.placement.server_of(queue))

    @property
    def accepted_hazards(self) -> frozenset[str]:
        """Hazards of Redis that do not keep a process from starting."""
        return frozenset(self.accept_hazards.replace(",", " ").split())

    @property
    def alert_host_list(self) -> tuple[str, ...]:
        """Hosts, host globs and networks alerts may be sent to."""
        return tuple(self.alert_hosts.replace(",", " ").split())

    @property
    def consumer_name(self) -> str:
        """This process's name in the consumer group."""
        return self.stream_consumer_name or f"{socket.gethostname()}-{os.getpid()}"

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be written anywhere: keys, and the passwords of the Redis URLs."""
        kept = (
            self.api_key,
            self.payload_key,
            self.redis_password,
            self.redis_sentinel_password,
            self.alert_channels,
            self.oauth_secret,
        )
        urls = [self.redis_url, self.redis_streams_url, self.redis_queue_url]
        urls += [server.url for server in self.placement.servers]
        passwords = {unquote(urlsplit(url).password or "") for url in urls}
        return tuple({key.get_secret_value() for key in kept if key} | passwords - {""})

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show URLs without their passwords."""
        for name, value in super().__repr_args__():
            hides = name is not None and name.endswith("_url") and isinstance(value, str)
            yield name, masked_url(value) if hides else value

    def url(self, role: str) -> str:
        """URL of a *role* (``cache``, ``streams``, ``queue``, ``queue-2`` …): password filled in, TLS checked."""
        return self.complete(self._given(role))

    def names_of(self, role: str) -> tuple[str, str]:
        """The variables that say where the server of *role* is, and what its password is."""
        own = {"cache": "REDIS_URL", "streams": "REDIS_STREAMS_URL", HOME: "REDIS_QUEUE_URL"}
        address = own.get(role, "REDIS_QUEUE_SHARDS")
        parts = urlsplit(self._given(role))
        says_itself = parts.password is not None or parts.scheme == "unix"
        return address, address if says_itself else "REDIS_PASSWORD"

    def _given(self, role: str) -> str:
        own = {
            "cache": self.redis_url,
            "streams": self.redis_streams_url,
            HOME: self.redis_queue_url,
        }
        return own[role] if role in own else self.placement.url_of(role)


def secret_names() -> tuple[str, ...]:
    """Environment variables that hold secrets: each may lie in a file that ``NAME_FILE`` names."""
    return secrets_of(Settings)


def environment_names() -> dict[str, str]:
    """Map every environment variable we read to the description of its setting."""
    return variables_of(Settings)


__all__ = ["Settings", "environment_names", "masked_url", "secret_names"]
