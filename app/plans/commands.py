"""The commands that answer what is asked, and the frames of their replies. Pure.

A plan is made before anything is sent, from the question and the last sample; reading carries out
exactly that plan. So ``explain()`` cannot differ from what Redis sees.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic_core import from_json

from app import frames, keys
from app.annals import past
from app.annals.tiers import TIER_COLUMNS
from app.cursors import letter_of
from app.errors import BadRecord
from app.jobs import lists
from app.jobs import rows as job_rows
from app.operations import Operation
from app.payloads.codec import Codec
from app.plans.ask import ENDED, Ask
from app.plans.plan import Plan, Step
from app.records import DeadLetter, JobRun
from app.sampling import record_rows
from app.snapshot import Snapshot
from app.wire.batch import rows_of, sorted_records

#: letters joined with their records by one SORT
LETTERS_AT_ONCE: Final = 1_000
#: run reports decoded at a time
DECODED_AT_ONCE: Final = 2_000
#: epoch ms no timestamp goes beyond
LAST_MS: Final = 253_402_300_800_000
_RUN_TIMES: Final = ("enqueued", "due", "started", "finished")
#: field of a run report → what stands for it in reports of an older release
_RUN_FIELDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("job_id", "queue", "function", "worker", "error"), ""),
    "outcome": None,
    "attempt": 0,
    **{f"{name}_ms": 0 for name in _RUN_TIMES},
}
_LETTER_FIELDS: Final = (
    *("id", "kind", "source", "name", "state", "reason", "error_type", "error", "fingerprint"),
    *("attempts", "redrives", "died_ms", "decision", "decision_reason", "correlation_id"),
)


def plan_of(ask: Ask, snapshot: Snapshot, *, now_ms: float, codec: Codec | None = None) -> Plan:
    """The commands that answer *ask*; counts of *snapshot* say how many pages are worth asking for."""
    match ask.what:
        case "runs":
            return _runs_plan(ask, snapshot)
        case "jobs" if ask.state in ENDED:
            return _ended_plan(ask, snapshot)
        case "jobs":
            return _jobs_plan(ask, snapshot, now_ms, codec)
        case "dead_letters":
            return _letters_plan(ask, snapshot)
        case "history":
            return _history_plan(ask, snapshot, now_ms)
        case "operations":
            return _operations_plan(ask)
        case name:
            return snapshot_plan(name, snapshot, now_ms)


def snapshot_plan(name: str, snapshot: Snapshot, now_ms: float) -> Plan:
    """The plan of a frame that the last sample holds."""
    age_s_ = max(0.0, now_ms / 1000 - snapshot.taken_at.timestamp())
    note = (
        f"the sample of {age_s_:.1f} s ago holds it ({snapshot.cost_commands} commands per "
        f"{snapshot.interval_s:g} s serve all who look)"
    )
    return Plan(what=name, note=note, make=lambda _: snapshot.frame(name).copy())


def _queues(ask: Ask, snapshot: Snapshot) -> list[str]:
    return list(ask.sources) or [str(name) for name in snapshot.queues["queue"]]


def _runs_steps(ask: Ask, snapshot: Snapshot) -> tuple[Step, ...]:
    newest = "+" if ask.until_ms is None else str(ask.until_ms)
    oldest = "-" if ask.since_ms is None else str(ask.since_ms)
    return tuple(
        Step(
            where="queue",
            command=("XREVRANGE", keys.runs(queue), newest, oldest, "COUNT", ask.reads),
            rows=ask.reads,
            as_bytes=True,
            queue=queue,
        )
        for queue in _queues(ask, snapshot)
    )


def _runs_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    steps = _runs_steps(ask, snapshot)
    return Plan(what="runs", steps=steps, make=runs_of, note="Redis keeps about 10,000 per queue")


def runs_of(replies: Sequence[Any]) -> pd.DataFrame:
    """The runs of several XREVRANGE replies (bytes, as sent), newest first.

    Some thousand reports at a time, so that what was decoded is still in the processor's cache when
    its columns are read: a hundred thousand runs within a second.
    """
    texts = [entry[1][1] for reply in replies for entry in reply or () if entry[1]]
    values: dict[str, list[Any]] = {name: [] for name in _RUN_FIELDS}
    for at in range(0, len(texts), DECODED_AT_ONCE):
        rows = _decoded(texts[at : at + DECODED_AT_ONCE])
        for name, missing in _RUN_FIELDS.items():
            values[name] += _values(rows, name, missing)
    frame = _runs_frame(values)
    order = np.argsort(-np.array(values["finished_ms"], "float64"), kind="stable")
    return frame.take(order).reset_index(drop=True)


def _runs_frame(values: Mapping[str, list[Any]]) -> pd.DataFrame:
    """RUN_COLUMNS of the fields' values, in their order."""
    times = {name: np.array(values[f"{name}_ms"], "float64") for name in _RUN_TIMES}
    columns: dict[str, Any] = {}
    for name, kind in frames.RUN_COLUMNS.items():
        if name in times:
            ms = times[name]
            is_known = (ms > 0) & (ms < LAST_MS)
            us = np.where(is_known, ms * 1000, 0).astype("int64")
            at = us.view("datetime64[us]")
            at[~is_known] = np.datetime64("NaT")
            columns[name] = pd.DatetimeIndex(at).tz_localize("UTC")
        elif name == "wait_s":
            columns[name] = np.maximum(0.0, times["started"] - times["due"]) / 1000
        elif name == "run_s":
            columns[name] = np.maximum(0.0, times["finished"] - times["started"]) / 1000
        elif kind == frames.OUTCOME:
            columns[name] = pd.Categorical(values[name], dtype=kind)
        elif kind == "str":
            columns[name] = _texts(values[name])
        else:
            columns[name] = np.array(values[name], kind)
    return pd.DataFrame(columns)


def _values(rows: Sequence[Mapping[str, Any]], name: str, missing: Any) -> list[Any]:
    try:
        return list(map(itemgetter(name), rows))
    except KeyError:  # reports of an older release lack what came later
        return [row.get(name, missing) for row in rows]


def _texts(values: list[Any]) -> Any:
    try:
        return pd.array(values, dtype="str")
    except (UnicodeEncodeError, TypeError, ValueError):  # bytes a producer wrote, or no texts
        return pd.array([frames.printable(value) for value in values], dtype="str")


def _decoded(texts: Sequence[bytes]) -> list[dict[str, Any]]:
    """Run reports as plain mappings, in one go; one by one where something among them is no report."""
    try:
        rows: list[Any] = from_json(b"[" + b",".join(texts) + b"]", cache_strings="keys")
        if len(rows) == len(texts) and all(type(row) is dict and "outcome" in row for row in rows):
            return rows
    except ValueError:
        pass
    found = []
    for text in texts:
        try:
            run = JobRun.from_json(text)
        except BadRecord:
            continue
        found.append({name: getattr(run, name) for name in run.__slots__})
    return found


def _ended_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    outcomes = ENDED[ask.state]

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        runs = runs_of(replies)
        runs = runs[runs["outcome"].isin(list(outcomes))]
        return ended_jobs(runs, ask.state)

    return Plan(
        what="runs", steps=_runs_steps(ask, snapshot), make=make,
        note="of the last 10,000 runs per queue",
    )  # fmt: skip


def ended_jobs(runs: pd.DataFrame, state: str) -> pd.DataFrame:
    """Runs as the jobs frame; of those that failed, the last of a job that died says so."""
    states = np.where(runs["outcome"] == "dead", "dead", state)
    made = runs.assign(state=states, arguments="", note="")
    return made[list(frames.JOB_COLUMNS)].astype(
        {"state": "str", "arguments": "str", "note": "str"}
    )


def _jobs_plan(ask: Ask, snapshot: Snapshot, now_ms: float, codec: Codec | None) -> Plan:
    counts = dict(
        zip(snapshot.queues["queue"].astype(str), snapshot.queues.get(ask.state, ()), strict=False)
    )
    steps, most = [], 0
    names = _queues(ask, snapshot)
    for queue in names:
        count = counts.get(queue)
        expected = ask.reads if count is None or count != count else min(ask.reads, int(count) + 1)
        most += expected
        if ask.state == "running":
            command: tuple[Any, ...] = ("HSCAN", keys.running(queue), 0, "COUNT", ask.reads)
        else:
            low, high = _bounds(ask, int(now_ms))
            command = (
                "ZRANGEBYSCORE", queue, low, high, "WITHSCORES", "LIMIT", 0, ask.reads,
            )  # fmt: skip
        steps.append(Step(where="queue", command=command, rows=expected, queue=queue))

    def follow(replies: Sequence[Any]) -> Plan:
        found = [
            (queue, *_pairs_and_claims(ask.state, reply))
            for queue, reply in zip(names, replies, strict=True)
        ]
        asked = [
            Step(where="queue", command=command, queue=queue)
            for queue, pairs, claims in found
            for command in lists.row_commands(queue, pairs, claims)
        ]

        def make(answers: Sequence[Any]) -> pd.DataFrame:
            rows, at = [], 0
            for queue, pairs, claims in found:
                width = len(lists.row_commands(queue, pairs, claims))
                made = lists.rows_from(
                    queue, pairs, claims, answers[at : at + width], int(now_ms), codec
                )
                at += width
                rows += [row for row in made if ask.state != "deferred" or row.state != "running"]
            return job_rows.jobs_frame(rows)

        return Plan(what="jobs", steps=tuple(asked), make=make)

    later = [
        Step(where="queue", command=command, times=most)
        for command in lists.row_commands("<queue>", [("<id>", 0.0)], {})
        if ask.state != "running" or command[0] not in ("HGET", "EXISTS")
    ]
    return Plan(what="jobs", steps=tuple(steps), later=tuple(later), follow=follow)


def _bounds(ask: Ask, now_ms: int) -> tuple[str, str]:
    low = None if ask.state == "waiting" else now_ms + 1
    high = now_ms if ask.state == "waiting" else None
    if ask.since_ms is not None:
        low = max(ask.since_ms, low or ask.since_ms)
    if ask.until_ms is not None:
        high = min(ask.until_ms, high or ask.until_ms)
    return "-inf" if low is None else str(low), "+inf" if high is None else str(high)


def _pairs_and_claims(state: str, reply: Any) -> tuple[list[tuple[str, float]], Mapping[str, str]]:
    if state != "running":
        flat = list(reply or ())
        return [(str(i), float(s)) for i, s in zip(flat[::2], flat[1::2], strict=True)], {}
    flat = list(reply[1]) if reply else []
    claims = {str(i): str(c) for i, c in zip(flat[::2], flat[1::2], strict=True)}
    return [(job_id, 0.0) for job_id in claims], claims


def _letters_plan(ask: Ask, snapshot: Snapshot) -> Plan:
    index = {
        "open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed,
    }  # fmt: skip
    counted = {"open": "dead_open", "retrying": "dead_retrying"}
    steps = []
    shelves = [
        ("queue", snapshot.queues, "queue"), ("streams", snapshot.streams, "stream"),
    ]  # fmt: skip
    for where, frame, column in shelves:
        for row in frame.to_dict("records"):
            source = str(row[column])
            if ask.sources and source not in ask.sources:
                continue
            for state in (ask.state,) if ask.state else ("open", "retrying"):
                count = row.get(counted.get(state, ""), float("nan"))
                most = ask.reads if count != count else min(ask.reads, int(count) + 1)
                for first in range(0, max(most, 1), LETTERS_AT_ONCE):
                    size = min(LETTERS_AT_ONCE, ask.reads - first)
                    pattern = keys.dead_record(source, "*->")
                    tail = sorted_records(
                        index[state](source), pattern, _LETTER_FIELDS, size, sort="SORT"
                    )
                    tail[tail.index("LIMIT") + 1] = first
                    held = source if where == "queue" else ""
                    steps.append(Step(where=where, command=tuple(tail), rows=size, queue=held))

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        letters = [
            letter
            for reply in replies
            for raw in rows_of(reply or (), _LETTER_FIELDS)
            if (letter := letter_of(raw)) is not None
        ]
        return letters_frame(letters)

    return Plan(what="dead_letters", steps=tuple(steps), make=make)


def letters_frame(letters: Iterable[DeadLetter]) -> pd.DataFrame:
    """The dead letters frame of *letters*, each once."""
    once = {(letter.source, letter.id): letter for letter in letters}
    return record_rows.dead_letters_frame(once.values())


def _history_plan(ask: Ask, snapshot: Snapshot, now_ms: float) -> Plan:
    end_ms = now_ms if ask.until_ms is None else ask.until_ms
    start_ms = end_ms - ask.span_s * 1000 if ask.since_ms is None else ask.since_ms
    names = _queues(ask, snapshot)
    grid = past.grid_of(start_ms, end_ms, now_ms=now_ms)
    steps = [
        Step(where="queue", command=command, rows=grid.steps)
        for name in names
        for command in grid.commands(name)
    ]

    def make(replies: Sequence[Any]) -> pd.DataFrame:
        parts = [
            grid.frame(name, replies[2 * n], _mapping(replies[2 * n + 1]))
            for n, name in enumerate(names)
        ]
        made = pd.concat(parts, ignore_index=True) if parts else frames.empty_frame(TIER_COLUMNS)
        made.attrs.update(grid.attrs)
        return made[list(ask.columns)]

    return Plan(
        what="history", steps=tuple(steps), make=make,
        note=f"{grid.attrs['tier']}, a row per {grid.attrs['step_s']} s",
    )  # fmt: skip


def _mapping(reply: Any) -> Mapping[str, str]:
    """HGETALL's flat reply as a mapping."""
    flat = list(reply or ())
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _operations_plan(ask: Ask) -> Plan:
    def follow(replies: Sequence[Any]) -> Plan:
        steps = [
            Step(where="queue", command=("HGETALL", keys.operation(str(one))))
            for one in replies[0] or ()
        ]

        def make(answers: Sequence[Any]) -> pd.DataFrame:
            found = []
            for answer in answers:
                try:
                    found.append(Operation.from_fields(_mapping(answer)))
                except BadRecord:
                    continue
            return operations_frame(found)

        return Plan(what="operations", steps=tuple(steps), make=make)

    first = Step(
        where="queue", command=("ZREVRANGE", keys.OPERATIONS, 0, ask.reads - 1), rows=ask.reads
    )
    each = Step(where="queue", command=("HGETALL", keys.operation("<id>")), times=ask.reads)
    return Plan(what="operations", steps=(first,), later=(each,), follow=follow)


def operations_frame(operations: Iterable[Operation]) -> pd.DataFrame:
    """The operations frame of *operations*, newest first."""
    return frames.frame_of(record_rows.operation_rows(operations), frames.OPERATION_COLUMNS)
