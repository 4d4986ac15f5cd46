"""Declarations: queues and streams declared in arqscope.toml, and how each treats its work. Pure but for reading."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from app.errors import SettingsError

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:~-]{0,127}")
DEAD_LETTER_QUEUE: Final = "dead-letter-queue"


class QueuePolicy(BaseModel):
    """How one queue treats its jobs; the defaults of the specification's three queues are built in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    timeout_s: float = Field(default=600.0, gt=0, le=86_400)
    attempts: int = Field(default=3, ge=1, le=1_000)  #: runs that may fail before a job is dead
    backoff_s: float = Field(default=2.0, ge=0, le=3_600)  #: base of the exponential backoff
    backoff_cap_s: float = Field(default=600.0, ge=0, le=86_400)
    #: runs that may take the worker down; from the third on the job runs alone on its worker
    crashes: int = Field(default=5, ge=1, le=100)
    keep_result_s: int | None = None  #: None: COMPLETED_JOB_TTL

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name) or name == DEAD_LETTER_QUEUE:
            raise ValueError(
                f"{name!r} is not a queue name: letters, digits and _.:~- only, at most 128, "
                f"and not {DEAD_LETTER_QUEUE!r}"
            )
        return name


#: fields of an entry that may say which partition it belongs to
PARTITION_FIELDS: Final = ("workspaceId", "userId", "correlationId", "source", "type")


class StreamPolicy(BaseModel):
    """One stream the event processor serves, and how it treats its events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    group: str = "event-processors"
    #: the first of these fields an entry has is its partition: events of one are handled in order
    partition: tuple[str, ...] = ("workspaceId", "userId")
    attempts: int = Field(default=5, ge=1, le=100)  #: attempts before an event is a dead letter
    keep: int = Field(default=100_000, ge=1_000)  #: entries kept for pages and replays, read or not

    @field_validator("name", "group")
    @classmethod
    def _is_plain(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(f"{name!r}: letters, digits and _.:~- only, at most 128")
        return name

    @field_validator("partition")
    @classmethod
    def _fields_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PARTITION_FIELDS:
                raise ValueError(f"{name!r} is none of {', '.join(PARTITION_FIELDS)}")
        return names


BUILT_IN_QUEUES: Final = (
    QueuePolicy(name="long-running-jobs", timeout_s=3600, attempts=3, backoff_s=5),
    QueuePolicy(name="async-processing", timeout_s=600, attempts=3, backoff_s=2),
    QueuePolicy(name="event-driven-jobs", timeout_s=300, attempts=5, backoff_s=1),
)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file at *path*; SettingsError says where it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def streams_of(table: Mapping[str, Any], path: Path) -> tuple[StreamPolicy, ...]:
    """The streams of ``[[streams]]``, in order; SettingsError names the file, the row and the field."""
    rows = table.get("streams", [])
    if not isinstance(rows, list):
        raise SettingsError(f"{path}: write each stream as a [[streams]] table with a name")
    found: dict[str, StreamPolicy] = {}
    for number, fields in enumerate(rows, 1):
        try:
            policy = StreamPolicy(**fields)
        except (ValidationError, TypeError) as error:
            raise SettingsError(f"{path}, [[streams]] number {number}: {error}") from error
        if policy.name in found:
            raise SettingsError(f"{path}: the stream {policy.name!r} is declared twice")
        found[policy.name] = policy
    return tuple(found.values())


def queues_of(table: Mapping[str, Any], path: Path) -> tuple[QueuePolicy, ...]:
    """The built-in queues with what ``[queues.NAME]`` says of them, then the others; SettingsError as above."""
    policies = {policy.name: policy for policy in BUILT_IN_QUEUES}
    for name, fields in table.get("queues", {}).items():
        before = policies[name].model_dump() if name in policies else {}
        try:
            policies[name] = QueuePolicy(**{**before, **fields, "name": name})
        except (ValidationError, TypeError) as error:
            raise SettingsError(f"{path}, [queues.{name}]: {error}") from error
    return tuple(policies.values())
