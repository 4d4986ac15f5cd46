"""The table of kinds of operations, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from app.errors import InvalidRequest
from app.operations import Kind
from app.operations.letters import LETTER_KINDS
from app.operations.replay import EventReplay

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {kind.name: kind for kind in (*LETTER_KINDS, EventReplay())}
)


def kind_of(name: str) -> Kind:
    """Return the kind *name*; InvalidRequest tells the known ones."""
    kind = KINDS.get(name)
    if kind is None:
        raise InvalidRequest(
            f"kind={name[:60]!r} is not known", field="kind", hint=", ".join(sorted(KINDS))
        )
    return kind
