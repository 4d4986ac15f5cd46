"""The reference page of every frame, as Markdown, made of the code's own schemas: docs/frames.md. Pure.

``python -m app.exports.reference`` prints it; a test compares what it prints with the page.
"""

import sys
from collections.abc import Mapping
from typing import Final

import pandas as pd

from app.analyses import conservation, explain, utilisation
from app.annals import past, tiers
from app.columns import TIME, Column, Schema
from app.frames import ASKED_FRAMES, FRAMES
from app.sampling import foreign

#: frames that are answers to a question → how a notebook and the API ask it
_ANSWERS: Final[Mapping[str, tuple[Schema, str]]] = {
    "past": (tiers.TIER_COLUMNS, "`scope.history()`, `scope.past(source, start)`, `GET /history/{source}`"),
    "annotations": (past.ANNOTATION_COLUMNS, "`scope.annotations()`, `GET /annotations`"),
    "shared arguments": (explain.SHARED_COLUMNS, "`scope.explain(fingerprint).shared`"),
    "retry odds": (explain.ODDS_COLUMNS, "`scope.explain(fingerprint).odds`"),
    "elsewhere": (explain.ELSEWHERE_COLUMNS, "`scope.explain(fingerprint).elsewhere`"),
    "changes": (explain.CHANGE_COLUMNS, "`scope.explain(fingerprint).changes`"),
    "conservation": (conservation.CONSERVATION_COLUMNS, "`GET /analyses/conservation`"),
    "utilisation": (utilisation.UTILISATION_COLUMNS, "`GET /analyses/utilisation`"),
    "ages": (utilisation.AGE_COLUMNS, "`GET /analyses/ages`"),
    "foreign": (foreign.FOREIGN_COLUMNS, "`GET /foreign`"),
}  # fmt: skip
#: frames that are queries of their own: more rows than the snapshot holds
_QUERIES: Final = {
    "runs": "`scope.runs` reads all that are kept, newest first",
    "dead_letters": "`scope.dead_letters`, `scope.letters(source, state=…)`",
    "jobs": "`scope.jobs(queue, state=…)`",
    "operations": "`scope.operations`",
    "cause_periods": "`scope.cause_periods()`",
}
_PROPERTIES: Final = frozenset({"queues", "workers", "streams", "groups", "events", "causes"})


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, schema in FRAMES.items():
        asked = _QUERIES.get(name) or (f"`scope.{name}`" if name in _PROPERTIES else "")
        more = f"{asked}, " if asked else ""
        parts.append(
            _section(name, schema, f'{more}`scope.frame("{name}")`, `GET /frames/{name}.json`')
        )
    for name, schema in ASKED_FRAMES.items():
        of = "?queue=" if name == "jobs" else ""
        parts.append(_section(name, schema, f"{_QUERIES[name]}, `GET /frames/{name}.json{of}`"))
    parts += [_section(name, schema, asked) for name, (schema, asked) in _ANSWERS.items()]
    return "\n".join(parts)


_HEAD: Final = """# Frames

Every frame of the system: what a row is, and each column's type, unit and meaning. The same in a notebook, over HTTP and in exported files.
Made by `python -m app.exports.reference > docs/frames.md` out of the code; a test fails when the two differ.

Times are UTC. A number nobody could read is `NaN` (null in JSON), never 0. Texts are empty where there is nothing to say. Frames of the
snapshot belong to one moment; `scope.as_of("03:00").queues` is the frame of then.
"""


def section_of(name: str) -> str:
    """The section of one frame; empty where there is none of that name."""
    also = {"history": "past", "stream_history": "past", "shared_arguments": "shared arguments"}
    known = {**FRAMES, **{answer: schema for answer, (schema, _) in _ANSWERS.items()}}
    schema = known.get(also.get(name, name))
    return "" if schema is None else _section(name, schema, "this file")


def _section(name: str, schema: Schema, asked: str) -> str:
    lines = [f"## {name}", "", schema.row, "", f"Ask: {asked}", ""]
    lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [_line(column, told) for column, told in schema.about.items()]
    return "\n".join([*lines, ""])


def _line(name: str, told: Column) -> str:
    unit = "" if told.dtype == TIME else told.unit
    return f"| `{name}` | {_kind(told.dtype)} | {unit} | {_safe(told.meaning)} |"


def _kind(dtype: object) -> str:
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    return {TIME: "time"}.get(str(dtype), str(dtype))


def _safe(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(page())
