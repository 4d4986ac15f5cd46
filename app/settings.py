"""Settings, read once at the door into one frozen object that travels as an argument.

The only module (with ``embedded``, which hands its processes an environment) that looks at the
environment. Sources, strongest first: the environment, ``.env``, ``arqscope.toml`` (queues only).
"""

import difflib
import os
import re
import socket
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote, unquote, urlencode, urlsplit, urlunsplit

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from app.credentials import SUFFIX, checked_by_tls, with_secret_files
from app.declarations import (
    BUILT_IN_QUEUES,
    DEAD_LETTER_QUEUE,
    NAME_PATTERN,
    QueuePolicy,
    StreamPolicy,
    queues_of,
    read_toml,
    streams_of,
)
from app.errors import NotFound, SettingsError
from app.placement import AT_HOME, HOME, Placement
from app.sentinels import check_address, watches


class Settings(BaseModel):
    """Everything an operator may change; every field has a safe default.

    The specification's names come without prefix (``REDIS_URL``), ours with ``ARQSCOPE_``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    # -- Redis ---------------------------------------------------------------------------------
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

    # -- access --------------------------------------------------------------------------------
    api_key: SecretStr | None = Field(
        default=None, description="key that the HTTP API and the login ask for"
    )
    require_api_key: bool = Field(
        default=False, description="refuse to start without API_KEY even on loopback"
    )

    # -- events --------------------------------------------------------------------------------
    stream_name: str = Field(default="pyairtable-events", description="stream events are read from")
    stream_consumer_group: str = Field(default="event-processors", description="consumer group")
    stream_consumer_name: str = Field(
        default="", description="consumer name; empty: host and process id"
    )
    batch_size: int = Field(
        default=1000, ge=1, le=10_000, description="entries per stream read at most"
    )
    block_time: int = Field(
        default=1000, ge=10, le=60_000, description="ms a stream read waits for an entry"
    )

    # -- jobs ----------------------------------------------------------------------------------
    concurrency: int = Field(default=5, ge=1, le=10_000, description="jobs a worker runs at a time")
    max_job_attempts: int | None = Field(
        default=None, ge=1, le=1_000, description="attempts of every queue, in place of its own"
    )
    job_timeout: int | None = Field(
        default=None, ge=1, description="ms; timeout of every queue, in place of its own"
    )
    completed_job_ttl: int = Field(
        default=3600, ge=0, description="s that results of completed jobs are kept"
    )
    failed_job_ttl: int = Field(
        default=604_800, ge=0, description="s that closed dead letters are kept"
    )
    dlq_queue_name: str = Field(
        default=DEAD_LETTER_QUEUE, description="name dead letters have in /stats"
    )
    retry_attempts: int = Field(
        default=3, ge=0, le=100, description="automatic retries of one dead letter at most"
    )
    retry_delay: int = Field(
        default=5000, ge=0, description="ms before the first automatic retry of a dead letter"
    )
    generic_jobs: bool = Field(
        default=False, description="run jobs of unknown name as 'generic' instead of refusing them"
    )

    # -- server --------------------------------------------------------------------------------
    queue_ui_host: str = Field(default="127.0.0.1", description="address the dashboard listens on")
    queue_ui_port: int = Field(default=8009, ge=0, le=65_535, description="port of the dashboard")
    environment: str = Field(default="development", description="name shown in the header")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR")

    # -- ours ----------------------------------------------------------------------------------
    functions: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_FUNCTIONS", "functions"),
        description="modules with the user's own job functions, comma separated",
    )
    handlers: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_HANDLERS", "handlers"),
        description="modules with the user's own event handlers, comma separated",
    )
    allow_pickle: bool = Field(
        default=False,
        validation_alias=AliasChoices("ARQSCOPE_ALLOW_PICKLE", "allow_pickle"),
        description="workers may read pickled jobs of stock producers (this executes what they hold)",
    )
    payload_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_PAYLOAD_KEY", "payload_key"),
        description="when set, payloads are signed with it and unsigned ones refused",
    )
    lease_s: float = Field(
        default=30.0,
        ge=0.5,
        le=600,
        validation_alias=AliasChoices("ARQSCOPE_LEASE_S", "lease_s"),
        description="s a running job stays claimed without renewal",
    )
    drain_s: float = Field(
        default=25.0,
        ge=0,
        le=3600,
        validation_alias=AliasChoices("ARQSCOPE_DRAIN_S", "drain_s"),
        description="s a stopping worker lets running jobs finish",
    )
    event_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        validation_alias=AliasChoices("ARQSCOPE_EVENT_ATTEMPTS", "event_attempts"),
        description="deliveries of an event before it is a dead letter",
    )
    job_events: bool = Field(
        default=False,
        validation_alias=AliasChoices("ARQSCOPE_JOB_EVENTS", "job_events"),
        description="workers publish job.completed, job.failed and job.progress events",
    )
    dead_letter_cap: int = Field(
        default=100_000,
        ge=100,
        validation_alias=AliasChoices("ARQSCOPE_DEAD_LETTER_CAP", "dead_letter_cap"),
        description="open dead letters per queue or stream; beyond it the oldest go to a file",
    )
    sample_interval_s: float = Field(
        default=1.0,
        ge=0.1,
        le=60,
        validation_alias=AliasChoices("ARQSCOPE_SAMPLE_INTERVAL_S", "sample_interval_s"),
        description="s between two samples of the collector",
    )
    release: str = Field(
        default="",
        max_length=100,
        validation_alias=AliasChoices("ARQSCOPE_RELEASE", "release"),
        description="version of your own code, told by workers; when it changes, charts mark a deploy",
    )
    beat_file: str = Field(
        default="",
        max_length=1_000,
        validation_alias=AliasChoices("ARQSCOPE_BEAT_FILE", "beat_file"),
        description="touched after each heartbeat that Redis took, for health checks that must cost nothing",
    )
    keep_history: bool = Field(
        default=True,
        validation_alias=AliasChoices("ARQSCOPE_KEEP_HISTORY", "keep_history"),
        description="write history and the samples servers share to the queue Redis",
    )
    read_only: bool = Field(
        default=False,
        validation_alias=AliasChoices("ARQSCOPE_READ_ONLY", "read_only"),
        description="refuse every action, show everything",
    )
    prefix: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_PREFIX", "prefix"),
        description="path before every address, where a proxy serves it below one: /tools/arqscope",
    )
    trusted_proxies: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_TRUSTED_PROXIES", "trusted_proxies"),
        description="addresses or networks whose X-Forwarded-* headers are believed, comma separated",
    )
    oauth_provider: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_PROVIDER", "oauth_provider"),
        description="a provider of Panel's that people may log in with: github, google, okta, generic …",
    )
    oauth_key: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_KEY", "oauth_key"),
        description="client id at the provider",
    )
    oauth_secret: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_SECRET", "oauth_secret"),
        description="client secret at the provider",
    )
    oauth_options: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_OPTIONS", "oauth_options"),
        description="what else the provider needs: NAME=value, separated by spaces",
    )
    oauth_roles: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_OAUTH_ROLES", "oauth_roles"),
        description="who may come in as what: ann@example.com=admin *@example.com=viewer; nobody else may",
    )
    frame_ancestors: str = Field(
        default="'none'",
        validation_alias=AliasChoices("ARQSCOPE_FRAME_ANCESTORS", "frame_ancestors"),
        description="who may show the pages in a frame, as in Content-Security-Policy: 'self' https://lab",
    )
    log_format: Literal["console", "json"] = Field(
        default="console",
        validation_alias=AliasChoices("ARQSCOPE_LOG_FORMAT", "log_format"),
        description="console: a line for people; json: one object per line",
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
    queues: tuple[QueuePolicy, ...] = BUILT_IN_QUEUES
    declared_streams: tuple[StreamPolicy, ...] = ()  #: ``[[streams]]`` of the TOML file

    #: fields whose name is not an environment variable
    _NOT_ENVIRONMENT: ClassVar[frozenset[str]] = frozenset({"queues", "declared_streams"})

    @field_validator("redis_url", "redis_streams_url", "redis_queue_url")
    @classmethod
    def _url_is_redis(cls, url: str) -> str:
        try:
            check_address(url)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _queues_are_placed(self) -> Self:
        _ = self.placement  # a mistake in it is told here, not at its first use
        return self

    @field_validator("redis_ca", "redis_cert", "redis_cert_key")
    @classmethod
    def _file_is_there(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_file():
            raise ValueError("there is no such file")
        return path

    @field_validator("stream_name", "stream_consumer_group", "dlq_queue_name")
    @classmethod
    def _is_plain_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError("letters, digits and _.:~- only, at most 128")
        return name

    @field_validator("log_level")
    @classmethod
    def _level_is_known(cls, level: str) -> str:
        if level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("one of DEBUG, INFO, WARNING, ERROR")
        return level.upper()

    @field_validator("prefix")
    @classmethod
    def _prefix_is_a_path(cls, prefix: str) -> str:
        plain = "/" + prefix.strip("/") if prefix.strip("/") else ""
        if plain and not re.fullmatch(r"(/[A-Za-z0-9][A-Za-z0-9_.-]*){1,8}", plain):
            raise ValueError("a path such as /tools/arqscope: letters, digits and _.- only")
        return plain

    @field_validator("frame_ancestors")
    @classmethod
    def _ancestors_are_sources(cls, listed: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9'*:/._\[\] -]+", listed):
            raise ValueError("'none', 'self' or origins, separated by spaces")
        return " ".join(listed.split())

    @classmethod
    def load(
        cls, environ: Mapping[str, str] | None = None, *, env_file: Path | None = Path(".env")
    ) -> "Settings":
        """Read the environment (or *environ*), then *env_file*, then the TOML file.

        Raises SettingsError, naming the variable, its value (never a secret) and the remedy.
        """
        world = os.environ if environ is None else environ
        values = {**_read_env_file(env_file), **{k: v for k, v in world.items() if v != ""}}
        _refuse_unknown(values)
        values = with_secret_files(values, secret_names())
        wanted = {name: values[name] for name in environment_names() if name in values}
        arguments: dict[str, Any] = {
            _field_of(name): (None if value == "" else value) for name, value in wanted.items()
        }
        config_file = Path(arguments.get("config_file", cls.model_fields["config_file"].default))
        if config_file.exists():
            table = read_toml(config_file)
            arguments["queues"] = queues_of(table, config_file)
            arguments["declared_streams"] = streams_of(table, config_file)
        try:
            return cls(**arguments)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from error

    def queue(self, name: str) -> QueuePolicy:
        """Return the policy of *name* with the specification's overrides applied; NotFound else."""
        for policy in self.queues:
            if policy.name == name:
                overrides: dict[str, Any] = {}
                if self.max_job_attempts is not None:
                    overrides["attempts"] = self.max_job_attempts
                if self.job_timeout is not None:
                    overrides["timeout_s"] = self.job_timeout / 1000
                if policy.keep_result_s is None:
                    overrides["keep_result_s"] = self.completed_job_ttl
                return policy.model_copy(update=overrides)
        raise NotFound("queue", name, self.queue_names)

    @property
    def queue_names(self) -> tuple[str, ...]:
        """Names of the declared queues, in order."""
        return tuple(policy.name for policy in self.queues)

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
    def streams(self) -> tuple[StreamPolicy, ...]:
        """The streams events are processed from: STREAM_NAME first, then the declared ones.

        STREAM_NAME's group and attempts are STREAM_CONSUMER_GROUP and ARQSCOPE_EVENT_ATTEMPTS, and
        the others' too where they say nothing else.
        """
        shared = {"group": self.stream_consumer_group, "attempts": self.event_attempts}
        found = {self.stream_name: StreamPolicy(name=self.stream_name, **shared)}
        for policy in self.declared_streams:
            said = policy.model_dump(exclude_unset=True)
            found[policy.name] = StreamPolicy(**{**shared, **said})
        return tuple(found.values())

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names of the streams, STREAM_NAME first."""
        return tuple(policy.name for policy in self.streams)

    def stream(self, name: str) -> StreamPolicy:
        """Return the policy of stream *name*; NotFound else."""
        for policy in self.streams:
            if policy.name == name:
                return policy
        raise NotFound("stream", name, self.stream_names)

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
        own = {
            "cache": self.redis_url,
            "streams": self.redis_streams_url,
            HOME: self.redis_queue_url,
        }
        url = own[role] if role in own else self.placement.url_of(role)
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
    """Return *url* with its password replaced by ``***``."""
    parts = urlsplit(url)
    if "sentinel_password=" in parts.query:
        query = re.sub(r"(sentinel_password=)[^&]*", r"\1***", parts.query)
        parts = parts._replace(query=query)
        url = urlunsplit(parts)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{unquote(parts.username or '')}:***@{host}"))


def secret_names() -> tuple[str, ...]:
    """Environment variables that hold secrets: each may lie in a file that ``NAME_FILE`` names."""
    fields = Settings.model_fields.items()
    secret = {name for name, field in fields if "SecretStr" in str(field.annotation)}
    return tuple(v for v in environment_names() if _field_of(v) in secret)


def environment_names() -> dict[str, str]:
    """Map every environment variable we read to the description of its setting."""
    names: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        if name in Settings._NOT_ENVIRONMENT:
            continue
        alias = field.validation_alias
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()
        names[variable] = field.description or ""
    return names


def _field_of(variable: str) -> str:
    return variable.removeprefix("ARQSCOPE_").lower()


def _refuse_unknown(values: Mapping[str, str]) -> None:
    known = [*environment_names(), *(name + SUFFIX for name in secret_names())]
    for name in values:
        if name.startswith("ARQSCOPE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise SettingsError(f"{name} is not a setting; did you mean {near[0]}?")


def _read_env_file(path: Path | None) -> dict[str, str]:
    if path is None or not path.is_file():
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        if not equals:
            raise SettingsError(f"{path} line {number}: expected NAME=value, got {text[:40]!r}")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    return values


def _explain(error: ValidationError) -> str:
    variables = {_field_of(name): name for name in environment_names()}
    lines = []
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else "?"
        variable = variables.get(field, variables.get(_field_of(field), field))
        shown = "" if variable in secret_names() else f"={problem['input']!r}"
        if variable.endswith("_URL"):  # a password may be anywhere in what is not a URL
            shown = "=" + re.sub(r"//.*@", "//***@", str(problem["input"]))
        lines.append(f"{variable}{shown}: {problem['msg']}")
    return "; ".join(lines)
