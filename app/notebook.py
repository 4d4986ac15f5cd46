"""The same system in a notebook: ``connect()`` gives live frames, control, charts and the pages.

What a scope offers does not depend on how it reaches the deployment: its Redis, or its HTTP API.
"""

import getpass
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pandas as pd

from app.actions import ActionReport, Actor, Role
from app.alerts.backtest import backtest
from app.alerts.rules import alert_rules
from app.analyses.forecast import Forecast
from app.analyses.verdicts import Verdict
from app.embedded import reachable_settings
from app.enqueue import Enqueued, JobRequest
from app.errors import InvalidRequest
from app.explanation import Explanation
from app.exports.incident import file_name, incident
from app.operations import Operation
from app.plans.ask import ENDED, JOB_STATES, LETTER_STATES, Ask, check_column, metric_column, moment
from app.scope.deployment import Deployment, Direct
from app.scope.job import JobView, watch
from app.scope.query import Query, card
from app.scope.remote import Remote
from app.settings import Settings
from app.snapshot import Snapshot

__all__ = ["Query", "Scope", "connect", "load_ipython_extension"]

#: the scope ``%arqscope`` is about: the last one connected
_last: "weakref.ref[Scope] | None" = None
_HOUR_MS: Final = 3_600_000


def connect(
    to: Settings | str | None = None,
    *,
    key: str = "",
    name: str = "",
    role: Role = "operator",
    **changes: Any,
) -> "Scope":
    """Connect and take a first sample.

    *to*: Settings; the ``redis://`` URL of one Redis that has all roles; the ``http(s)://`` address of
    a server, with an API *key*; nothing: the environment, or the stack that ``arqscope up`` runs here. *changes* replace single settings. *name* is
    how the audit calls you; *role* what you allow yourself (over HTTP the key decides). Raises
    SettingsError, RedisUnavailable, or ActionRefused for a key the server does not take.
    """
    if isinstance(to, str) and to.startswith(("http://", "https://")):
        if changes:
            raise InvalidRequest(
                f"{', '.join(changes)}: settings of a server are not changed from here", field="to"
            )
        return Scope(Remote(to, key))
    if isinstance(to, str):
        if not to.startswith(("redis://", "rediss://", "unix://")):
            raise InvalidRequest(
                f"to={to!r} is no address", field="to",
                hint="redis://host:6379/0, rediss://…, unix://… or http(s)://host:8009",
            )  # fmt: skip
        urls = dict.fromkeys(("redis_url", "redis_streams_url", "redis_queue_url"), to)
        base = Settings(**{**urls, "sample_interval_s": 1.0})
    else:
        base = to or reachable_settings()
    settings = Settings(**{**base.model_dump(), **changes}) if changes else base
    return Scope(Direct(settings, Actor(name=name or _who(), role=role)))


def _who() -> str:
    try:
        return f"notebook of {getpass.getuser()}"
    except (KeyError, OSError):  # a container without users
        return "notebook"


class Scope:
    """Live view and control of one deployment. Use as a context manager, or ``close()`` it."""

    def __init__(self, deployment: Deployment) -> None:
        global _last
        self.deployment = deployment
        self.settings = deployment.settings
        _last = weakref.ref(self)

    # -- frames --------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """The latest snapshot."""
        return self.deployment.snapshot

    def frame(self, name: str) -> pd.DataFrame:
        """A copy of one frame of the latest snapshot (docs/frames.md); KeyError else."""
        return self.snapshot.frame(name).copy()

    @property
    def queues(self) -> Query:
        """One row per queue: counts, rates, workers."""
        return self._query("queues")

    @property
    def workers(self) -> Query:
        """One row per live process."""
        return self._query("workers")

    @property
    def streams(self) -> Query:
        """One row per event stream."""
        return self._query("streams")

    @property
    def groups(self) -> Query:
        """One row per consumer group: pending and lag."""
        return self._query("groups")

    @property
    def events(self) -> Query:
        """The newest handled events."""
        return self._query("events")

    @property
    def causes(self) -> Query:
        """Dead letters grouped by fingerprint, commonest first."""
        return self._query("causes")

    @property
    def runs(self) -> Query:
        """Every finished run Redis keeps (about 10,000 per queue), newest first."""
        return self._query("runs")

    @property
    def operations(self) -> Query:
        """Bulk actions, newest first."""
        return self._query("operations")

    @property
    def dead_letters(self) -> Query:
        """Dead letters that wait for a decision or whose retry is under way, newest first."""
        return self._query("dead_letters")

    def letters(self, source: str = "", *, state: str = "", **conditions: Any) -> Query:
        """Dead letters of one queue or stream; *state* ``open``, ``retrying`` or ``closed``."""
        if state and state not in LETTER_STATES:
            raise InvalidRequest(
                f"state={state!r} is not known", field="state", hint=", ".join(LETTER_STATES)
            )
        sources = (source,) if source else ()
        return Query(self.deployment, Ask(what="dead_letters", sources=sources, state=state)).where(
            **conditions
        )

    def jobs(
        self,
        queue: str = "",
        *,
        state: str = "waiting",
        since: str = "",
        until: str = "",
        **conditions: Any,
    ) -> Query:
        """Jobs of a queue (empty: of all) in one state, such as ``function="data-sync"``.

        ``waiting`` and ``deferred`` by due time, ``running``, and ``complete``, ``failed`` or
        ``aborted`` out of the last 10,000 runs, newest first.
        """
        if state not in JOB_STATES:
            raise InvalidRequest(
                f"state={state!r} is not known", field="state", hint=", ".join(JOB_STATES)
            )
        made = Query(
            self.deployment, Ask(what="jobs", sources=(queue,) if queue else (), state=state)
        )
        made = made.since(since) if since else made
        made = made.until(until) if until else made
        return made.where(**conditions) if conditions else made

    def history(
        self, metric: str = "", span: str = "1h", *, source: str | Iterable[str] = ()
    ) -> Query:
        """History of queues (or of the *source* given): minutes for 7 days, hours for 90.

        *metric*: ``wait_p95``, ``backlog``, ``throughput``, ``failures``, or any column; empty: all.
        A step nobody saw is NaN.
        """
        sources = (source,) if isinstance(source, str) else tuple(source)
        since_ms = moment("span", span, time.time() * 1000)
        ask = Ask(
            what="history", sources=tuple(s for s in sources if s), metric=metric_column(metric),
            span_s=max(60.0, time.time() - since_ms / 1000),
        )  # fmt: skip
        return Query(self.deployment, ask)

    def _query(self, what: str) -> Query:
        return Query(self.deployment, Ask(what=what))

    def refresh(self) -> Self:
        """Sample now instead of at the next tick."""
        self.deployment.refresh()
        return self

    # -- control -------------------------------------------------------------------------------

    def enqueue(
        self, queue: str, name: str, data: Mapping[str, Any] | None = None, **options: Any
    ) -> Enqueued:
        """Put a job on *queue*; *options* are those of JobRequest (``delay_s``, ``id`` …)."""
        return self.enqueue_many(
            queue, [JobRequest(name=name, args=(dict(data or {}),), **options)]
        )[0]

    def enqueue_many(self, queue: str, requests: Iterable[JobRequest]) -> list[Enqueued]:
        """Put many jobs on *queue*; InvalidRequest before the first is sent when one is malformed."""
        wanted = list(requests)
        if not wanted:
            raise InvalidRequest("there is no job to enqueue", field="requests", hint="give one")
        return self.deployment.submit(queue, wanted)

    def publish(self, event_type: str, data: Any = None, **more: Any) -> ActionReport:
        """Publish one event; *more* are ``user_id workspace_id correlation_id event_id stream``."""
        return self.deployment.act(
            "publish_event", event_type, data, **{"source": "notebook", **more}
        )

    def retry(self, source: str, letter_id: str) -> ActionReport:
        """Retry one dead letter; asked twice it still makes one job."""
        return self.deployment.act("retry_letter", source, letter_id)

    def discard(self, source: str, letter_id: str) -> ActionReport:
        """Give a dead letter up; undoable for 24 h."""
        return self.deployment.act("discard_letter", source, letter_id)

    def act(self, verb: str, *given: Any, **more: Any) -> ActionReport:
        """Do any action by its name: ``act("pause_queue", "async-processing")``."""
        return self.deployment.act(verb, *given, **more)

    # -- one thing -----------------------------------------------------------------------------

    def job(self, queue: str, job_id: str) -> JobView:
        """Everything about one job; NotFound."""
        return JobView(self.deployment, self.deployment.job(queue, job_id))

    def operation(self, operation_id: str) -> Operation:
        """One bulk action: how far it is, and why it stands there; NotFound."""
        return self.deployment.operation(operation_id)

    def watch(self, what: Any, *, queue: str = "", limit_s: float = 3600.0) -> Any:
        """Follow a job or a bulk action with a progress bar until it ends; return what it is then.

        *what*: what ``enqueue()`` or ``job()`` returned, a report of ``retry()``, or an id.
        """
        return watch(self.deployment, what, queue=queue, limit_s=limit_s)

    # -- analyses ------------------------------------------------------------------------------

    def explain(self, fingerprint: str) -> Explanation:
        """Explain a cause: shared arguments, retry odds, other queues, what changed; NotFound."""
        return self.deployment.explain_cause(fingerprint)

    def cause_periods(self) -> pd.DataFrame:
        """Return deaths per cause in the last 1h, 3h, 24h, 3d and 7d, with what is not known of them."""
        return self.deployment.cause_periods()

    def backtest(self, metric: str, **rule: Any) -> pd.DataFrame:
        """Say when a rule (as in [[alerts]]) would have fired over the last hour; SettingsError."""
        made = alert_rules([{"metric": metric, **rule}], "the rule")[0]
        snapshot = self.snapshot
        is_stream = metric in ("lag", "lag_s")
        return backtest(snapshot.stream_history if is_stream else snapshot.history, [made])

    def past(
        self, source: str, start: str | pd.Timestamp, end: str | pd.Timestamp | None = None
    ) -> pd.DataFrame:
        """Return the history of a queue or stream between two times, every column."""
        now_ms = time.time() * 1000
        ask = Ask(
            what="history", sources=(source,), since_ms=moment("start", start, now_ms),
            until_ms=None if end is None else moment("end", end, now_ms),
        )  # fmt: skip
        return self.deployment.read(ask)

    def as_of(self, at: str | pd.Timestamp) -> Snapshot:
        """Return the snapshot the pages would have shown then; NotFound when nothing was stored near."""
        return self.deployment.as_of(moment("at", at, time.time() * 1000))

    def annotations(self, since: str | pd.Timestamp = "1h") -> pd.DataFrame:
        """Deploys, pauses and operations since then, oldest first."""
        now_ms = time.time() * 1000
        return self.deployment.annotations(moment("since", since, now_ms), now_ms)

    def forecast(self, queue: str, *, workers: float | None = None) -> Forecast:
        """Say when *queue* will be empty, with *workers* in place of those there are."""
        return self.deployment.forecast(queue, workers)

    def why(self, queue: str, job_id: str) -> Verdict:
        """Say why a job is not running, and the next step."""
        return self.deployment.why(queue, job_id)

    def incident(
        self, start: str | pd.Timestamp, end: str | pd.Timestamp, *, path: str | Path = ""
    ) -> Path:
        """Write what is known between two times as a zip that opens without Redis; the file.

        Frames, charts, a prefilled notebook; credentials in texts masked. *path* empty: named by the time.
        """
        now_ms = time.time() * 1000
        start_ms, end_ms = moment("start", start, now_ms), moment("end", end, now_ms)
        target = Path(path or file_name(start_ms))
        target.write_bytes(incident(self.deployment, start_ms, end_ms))
        return target

    # -- components ----------------------------------------------------------------------------

    def dashboard(self) -> Any:
        """Return the pages of the server as one live object, the overview shown."""
        return self.page("queues")

    def page(self, name: str, **query: Any) -> Any:
        """Return one page as a live object: ``page("dead-letters", source="async-processing")``."""
        from app.scope.live import page_of

        return page_of(self.deployment, name, query)

    def chart(self, name: str, *, queue: str = "", theme: str = "light") -> Any:
        """Return one chart of the pages, live: ``throughput backlog wait run lag events``."""
        from app.scope.live import LiveChart

        return LiveChart(self.deployment, name, only=queue, theme=theme)

    # -- life ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop sampling and close the connections."""
        self.deployment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """Show the queues as a card; every text in it is escaped."""
        columns = ["queue", "waiting", "running", "deferred", "complete", "dead_open", "workers"]
        return card(f"arqscope · {self.deployment.where}", self.frame("queues")[columns])

    def __repr__(self) -> str:
        at = self.snapshot.taken_at.strftime("%H:%M:%S")
        return f"<arqscope Scope of {len(self.frame('queues'))} queues, sampled {at} UTC>"


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext app.notebook`` adds ``%arqscope``: queues, a frame, ``page …`` or ``chart …``."""

    def arqscope(line: str) -> Any:
        return _magic(line)

    shell.register_magic_function(arqscope, "line", "arqscope")


def _magic(line: str) -> Any:
    global _last
    words = line.split()
    if words[:1] == ["connect"]:
        return connect(*words[1:2])
    scope = _last() if _last is not None else None
    if scope is None:
        raise InvalidRequest("nothing is connected", field="scope", hint="%arqscope connect [URL]")
    match words:
        case []:
            return scope
        case ["page", name]:
            return scope.page(name)
        case ["chart", name]:
            return scope.chart(name)
        case ["jobs", queue, *state]:
            return scope.jobs(queue, state=state[0] if state else "waiting")
        case [name]:
            check_column(name, _NAMED)
            return getattr(scope, name)
        case _:
            raise InvalidRequest(
                f"%arqscope {line} is not understood", field="line",
                hint=f"connect, {', '.join(_NAMED)}, jobs QUEUE [STATE], page NAME, chart NAME",
            )  # fmt: skip


_NAMED: Final = (
    "queues", "workers", "runs", "dead_letters", "causes", "streams", "groups", "events", "operations",
)  # fmt: skip
assert set(ENDED) < set(JOB_STATES)  # noqa: S101 - one vocabulary
