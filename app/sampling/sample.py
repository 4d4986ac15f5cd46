"""One sample as plain rows: what a leader stores, what the others read, what frames are made of."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from app.errors import BadRecord

Rows = list[dict[str, Any]]


@dataclass(slots=True, kw_only=True)
class Sample:
    """What one look at the three Redis told. Rows are those of ``frames``; times are epoch ms.

    Lists that are None were not read this time: what was known before still holds.
    """

    at_us: int  #: when it was taken, by this machine's clock
    now_ms: float  #: the same moment by the queue Redis' clock
    queue_answered: bool = True
    queues: Rows = field(default_factory=list)
    streams: Rows = field(default_factory=list)
    groups: Rows = field(default_factory=list)
    redis: Rows = field(default_factory=list)
    stream_history: Rows = field(default_factory=list)
    workers: Rows | None = None
    running: Rows | None = None  #: without ``running_s``
    letters: Rows | None = None
    events: Rows | None = None
    functions: Rows | None = None
    operations: Rows | None = None
    alerts: Rows | None = None
    #: fields of causes with their deaths of this hour and of today
    causes: list[tuple[dict[str, str], float, float]] | None = None

    def to_json(self) -> str:
        """Encode; NaN becomes null."""
        return json.dumps(_known(asdict(self)), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Decode, also what an older version stored; BadRecord when it is not a sample."""
        try:
            raw = json.loads(text)
            return cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecord(f"not a sample: {error}") from error


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) or math.isinf(value) else value
    if isinstance(value, dict):
        return {name: _known(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value
