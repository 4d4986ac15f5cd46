"""A deployment reached through the HTTP API of its server: the same answers, the server's rights.

How it is called is in ``caller``, what its answers become in ``answers``.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

import pandas as pd

from app import frames
from app.actions import ActionReport, Actor, Connections
from app.analyses.forecast import Forecast
from app.analyses.verdicts import Hold, Verdict
from app.annals.past import ANNOTATION_COLUMNS
from app.annals.tiers import TIER_COLUMNS
from app.collector import Callback
from app.enqueue import Enqueued, JobRequest
from app.errors import (
    ActionRefused,
    ArqscopeError,
)  # fmt: skip
from app.explanation import Explanation
from app.jobs.rows import jobs_frame
from app.operations import Operation
from app.plans.ask import LETTER_STATES, Ask
from app.plans.commands import letters_frame, operations_frame, snapshot_plan
from app.plans.plan import Plan, Step
from app.reader import JobDetail
from app.scope import answers
from app.scope.caller import Caller
from app.scope.deployment import VERBS, report_of
from app.settings import Settings
from app.snapshot import Lazy, Snapshot

PAGE: Final = 500
#: s a sample is good for when nobody follows
FRESH_S: Final = 1.0
#: how often followers get a new sample, s
EVERY_S: Final = 2.0


class Remote(Caller):
    """A deployment reached through ``http(s)://host:port`` of its server."""

    def __init__(self, url: str, key: str = "", *, interval_s: float = EVERY_S) -> None:
        super().__init__(url, key)
        self._lock = threading.Lock()
        self._subscribers: dict[int, Callback] = {}
        self._next_key = 1
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self._read_at = float("-inf")
        self._snapshot = Snapshot.empty()
        self._interval_s = interval_s
        #: ours, not the server's: what a page shows of settings is refused (``page_of``)
        self.settings = Settings(sample_interval_s=interval_s, environment=self.host)
        #: who acts is decided by the server, by the key
        self.actor = Actor(name="the key's owner", role="operator")
        self.refresh()

    def _frame(self, name: str, at_ms: float | None = None) -> pd.DataFrame:
        at = None if at_ms is None else pd.Timestamp(int(at_ms), unit="ms", tz="UTC").isoformat()
        body, _ = self._ask("GET", f"/frames/{name}.parquet", at=at)
        found = answers.table(body, self.where)
        columns = {}
        for column, kind in frames.FRAMES[name].items():
            columns[column] = (
                found[column].astype(kind)
                if column in found
                else frames.frame_of([{}] * len(found), {column: kind})[column]
            )
        return pd.DataFrame(columns)

    # -- samples -------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot, at most a second old, or as old as followers are given."""
        if self._thread is None and time.monotonic() - self._read_at > FRESH_S:
            self.refresh()
        return self._snapshot

    def refresh(self) -> None:
        """Read the frames the pages are made of now; the others when somebody looks."""
        with self._lock:
            now: dict[str, Any] = {
                name: self._frame(name) for name in ("queues", "streams", "history")
            }
            rest: dict[str, Any] = {
                name: Lazy(lambda name=name: self._frame(name))  # type: ignore[misc]
                for name in frames.FRAMES if name not in now
            }  # fmt: skip
            history = now["history"]
            at = history["at"].iloc[-1] if len(history) else pd.Timestamp.now("UTC")
            self._snapshot = Snapshot(
                taken_at=at, interval_s=self._interval_s, role="follower",
                number=self._snapshot.number + 1, **now, **rest,
            )  # fmt: skip
            self._read_at = time.monotonic()

    def subscribe(self, callback: Callback) -> int:
        """Call *callback* with each new snapshot; a thread asks for them while somebody follows."""
        key, self._next_key = self._next_key, self._next_key + 1
        self._subscribers[key] = callback
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._follow, name="arqscope-remote", daemon=True
            )
            self._thread.start()
        return key

    def unsubscribe(self, key: int) -> None:
        """Stop calling."""
        self._subscribers.pop(key, None)

    def _follow(self) -> None:
        while self._subscribers and not self._is_over.wait(self._interval_s):
            try:
                self.refresh()
            # also an answer of another version: the last values stay, their age shows
            except (ArqscopeError, AttributeError, LookupError, TypeError, ValueError):
                continue
            for key, callback in list(self._subscribers.items()):
                try:
                    callback(self._snapshot)
                except Exception:  # a component of a cell that is gone
                    self.unsubscribe(key)
        self._thread = None

    # -- reading -------------------------------------------------------------------------------

    def plan(self, ask: Ask) -> Plan:
        """The requests *ask* will send; a page holds 500 rows."""
        if ask.is_snapshot:
            age = snapshot_plan(ask.what, self._snapshot, time.time() * 1000)
            path = f"GET /frames/{ask.what}.parquet"
            step = Step(where="http", command=(path,), rows=1_000)
            return Plan(what=ask.what, steps=(step,), note=age.note.partition(" (")[0])
        steps = []
        for path, query in self._requests(ask):
            said = {k: v for k, v in query.items() if v not in (None, "")}
            times = 1 if ask.what == "history" else -(-ask.reads // PAGE)
            text = f"GET {path}" + (f"?{urlencode(said)}" if said else "")
            rows = ask.reads if ask.what != "history" else 1_000
            steps.append(Step(where="http", command=(text,), times=times, rows=rows))
        return Plan(what=ask.what, steps=tuple(steps))

    def _requests(self, ask: Ask) -> Iterator[tuple[str, dict[str, Any]]]:
        snapshot = self.snapshot
        queues = [str(name) for name in snapshot.queues["queue"]]
        streams = [str(name) for name in snapshot.streams["stream"]]
        since, until = answers.iso(ask.since_ms), answers.iso(ask.until_ms)
        limit = min(PAGE, ask.reads)
        match ask.what:
            case "runs":
                for queue in ask.sources or queues:
                    yield f"/runs/{quote(queue)}.parquet", {
                        "since": since, "until": until, "limit": ask.reads,
                    }  # fmt: skip
            case "jobs":
                for queue in ask.sources or queues:
                    yield f"/jobs/{quote(queue)}", {
                        "state": ask.state, "since": since, "until": until, "limit": limit,
                    }  # fmt: skip
            case "dead_letters":
                states = (ask.state,) if ask.state in LETTER_STATES else LETTER_STATES[:2]
                for source in ask.sources or (*queues, *streams):
                    for state in states:
                        yield f"/dead-letters/{quote(source)}", {
                            "state": state, "since": ask.since_ms, "until": ask.until_ms, "limit": limit,
                        }  # fmt: skip
            case "history":
                now_ms = time.time() * 1000
                end = now_ms if ask.until_ms is None else ask.until_ms
                start = end - ask.span_s * 1000 if ask.since_ms is None else ask.since_ms
                for source in ask.sources or queues:
                    yield (
                        f"/history/{quote(source)}",
                        {"start": answers.iso(start), "end": answers.iso(end)},
                    )
            case "operations":
                yield "/operations", {"limit": limit}

    def read(self, ask: Ask) -> pd.DataFrame:
        """Send the requests of *ask* and make its frame."""
        if ask.is_snapshot:
            return ask.finish(self._frame(ask.what))
        parts: list[pd.DataFrame] = []
        rows: list[Any] = []
        for path, query in self._requests(ask):
            if ask.what == "runs":
                body, _ = self._ask("GET", path, **query)
                parts.append(answers.table(body, self.where))
            elif ask.what == "history":
                parts.append(answers.framed(self._get(path, **query), TIER_COLUMNS))
            else:
                rows += self._pages(path, query, ask.reads)
        match ask.what:
            case "jobs":
                made = jobs_frame(answers.job_row_of(row) for row in rows)
            case "dead_letters":
                made = letters_frame(answers.letter_of(row) for row in rows)
            case "operations":
                made = operations_frame(answers.operation_of(row) for row in rows)
            case "runs":
                made = answers.joined(parts, frames.RUN_COLUMNS)
                made["outcome"] = made["outcome"].astype(frames.OUTCOME)
                made = made.sort_values("finished", ascending=False, ignore_index=True)
            case _:
                made = answers.joined(parts, TIER_COLUMNS)[list(ask.columns)]
        return ask.finish(made)

    def _pages(self, path: str, query: Mapping[str, Any], most: int) -> Iterator[Any]:
        cursor, seen = None, 0
        while seen < most:
            page = self._get(path, **query, cursor=cursor)
            yield from page["items"]
            seen += len(page["items"])
            cursor = page.get("cursor")
            if not cursor:
                return

    def job(self, queue: str, job_id: str) -> JobDetail:
        """Everything about one job."""
        raw = self._get(f"/jobs/{quote(queue)}/{quote(job_id, safe='')}")
        return answers.job_of(raw)

    def operation(self, operation_id: str) -> Operation:
        """One bulk action."""
        return answers.operation_of(self._get(f"/operations/{quote(operation_id)}"))

    def explain_cause(self, fingerprint: str) -> Explanation:
        """Shared arguments, retry odds, other queues, what changed before."""
        raw = self._get(f"/dead-letters/causes/{quote(fingerprint)}/explain")
        return answers.explanation_of(raw)

    def cause_periods(self) -> pd.DataFrame:
        """Deaths per cause in the last hours and days, with what is not known of them."""
        return answers.framed(self._get("/frames/cause_periods.json"), frames.TALLY_COLUMNS)

    def forecast(self, queue: str, workers: float | None) -> Forecast:
        """When a queue will be empty."""
        raw = self._get(f"/queues/{quote(queue)}/forecast", workers=workers)
        queues = self.snapshot.queues
        row = queues[queues["queue"] == queue].to_dict("records")[0]
        return answers.forecast_of(raw, float(row["waiting"] + row["running"]))

    def why(self, queue: str, job_id: str) -> Verdict:
        """Why a job is not running."""
        raw = self._get(f"/jobs/{quote(queue)}/{quote(job_id, safe='')}/why")
        return Verdict(
            hold=Hold(raw["hold"]), sentence=raw["sentence"], next_step=raw["nextStep"],
            until_ms=raw["untilMs"] or 0,
        )  # fmt: skip

    def as_of(self, at_ms: float) -> Snapshot:
        """The snapshot of then; each frame is asked for when somebody looks."""
        queues = self._frame("queues", at_ms)  # what is wrong shows at once
        rest: dict[str, Any] = {
            name: Lazy(lambda name=name: self._frame(name, at_ms))  # type: ignore[misc]
            for name in frames.FRAMES if name != "queues"
        }  # fmt: skip
        at = pd.Timestamp(int(at_ms), unit="ms", tz="UTC")
        return Snapshot(taken_at=at, number=1, queues=cast(Any, queues), **rest)

    def annotations(self, start_ms: float, end_ms: float) -> pd.DataFrame:
        """Deploys, pauses and operations of a range."""
        raw = self._get("/annotations", start=answers.iso(start_ms), end=answers.iso(end_ms))
        return answers.framed(raw, ANNOTATION_COLUMNS)

    # -- acting --------------------------------------------------------------------------------

    def act(self, verb: str, *given: Any, **more: Any) -> ActionReport:
        """Ask the server for the action called *verb*."""
        if verb not in VERBS:
            raise ActionRefused(f"no action {verb!r}; there are {', '.join(sorted(VERBS))}")
        if verb == "start_operation":
            kind, source, *rest = given
            body = {"kind": kind, "source": source, "filter": rest[0] if rest else {}, **more}
            return report_of(
                self._post("/operations", {k: v for k, v in body.items() if v is not None})
            )
        if verb == "publish_event":
            return self._publish(*given, **more)
        if verb == "mark_deploy":
            return report_of(self._post("/deploys", {"version": given[0], **more}))
        if verb == "set_concurrency":
            return report_of(
                self._post(f"/queues/{quote(given[0])}/concurrency", {"slots": given[1]})
            )
        word, _, noun = verb.partition("_")
        path = "/".join(quote(str(one), safe="") for one in given)
        names = {
            "letter": "dead-letters",
            "job": "jobs",
            "queue": "queues",
            "operation": "operations",
        }
        if verb == "undo_discard":
            return report_of(self._post(f"/dead-letters/{path}/undo"))
        body = {k: v for k, v in more.items() if k == "reason" and v}
        if "delay_s" in more:
            body["delay"] = more["delay_s"] * 1000
        return report_of(self._post(f"/{names[noun]}/{path}/{word}", body or None))

    def _publish(self, event_type: str, data: Any = None, **more: Any) -> ActionReport:
        names = {
            "user_id": "userId", "workspace_id": "workspaceId", "correlation_id": "correlationId",
            "event_id": "eventId", "source": "source",
        }  # fmt: skip
        body = {"type": event_type, "data": {} if data is None else data}
        body |= {names[k]: v for k, v in more.items() if k in names and v}
        told = self._post("/events", body, stream=more.get("stream"))
        word = "was published before" if told["existed"] else "was published"
        return ActionReport(
            action="publish_event", changed=not told["existed"], detail=told,
            message=f"{event_type} {word} as {told['id']}",
        )  # fmt: skip

    def submit(self, queue: str, requests: Sequence[JobRequest]) -> list[Enqueued]:
        """Put jobs on *queue*."""
        asked = [answers.new_job(request) for request in requests]
        told = self._post(f"/jobs/{quote(queue)}", asked)
        return [Enqueued(one["id"], not one["existed"]) for one in told]

    def page_connections(self) -> Connections:
        """Pages that read more than frames say where the server shows them."""
        return cast(Connections, _Elsewhere(self.where))

    def close(self) -> None:
        """Stop asking."""
        self._is_over.set()
        self._subscribers.clear()


class _Elsewhere:
    """In place of clients: a remote scope has none. Whatever it is asked to do, it says where to look."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ActionRefused(
            f"this needs more than frames; the server shows it: {self._where}/admin/queues"
        )
