"""Settings of the work: how jobs and events are run, tried again, kept."""

from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator

from app.declarations import (
    BUILT_IN_QUEUES,
    DEAD_LETTER_QUEUE,
    NAME_PATTERN,
    QueuePolicy,
    StreamPolicy,
)
from app.errors import NotFound


class Work(BaseModel):
    """What workers and processors go by, and the policies of queues and streams."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
    event_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        validation_alias=AliasChoices("ARQSCOPE_EVENT_ATTEMPTS", "event_attempts"),
        description="deliveries of an event before it is a dead letter",
    )
    handlers: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_HANDLERS", "handlers"),
        description="modules with the user's own event handlers, comma separated",
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
    functions: str = Field(
        default="",
        validation_alias=AliasChoices("ARQSCOPE_FUNCTIONS", "functions"),
        description="modules with the user's own job functions, comma separated",
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

    queues: tuple[QueuePolicy, ...] = BUILT_IN_QUEUES
    declared_streams: tuple[StreamPolicy, ...] = ()  #: ``[[streams]]`` of the TOML file

    @field_validator("stream_name", "stream_consumer_group", "dlq_queue_name")
    @classmethod
    def _is_plain_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError("letters, digits and _.:~- only, at most 128")
        return name

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
