"""The queries of a notebook: lazy and composable; read when looked at, acting where that has a meaning."""

import html
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from app.actions import ActionReport
from app.errors import ActionRefused, InvalidRequest
from app.exports.files import SUFFIXES, file_of, redacted_frame
from app.operations import parse_rate
from app.plans.ask import Ask, moment
from app.plans.plan import Plan
from app.scope.deployment import Deployment

#: rows a representation shows
SHOWN: Final = 10
#: letters acted on one by one, where no operation can say which are meant
ONE_BY_ONE: Final = 100
#: columns of a frame → the condition of an operation that means the same
_OPERATION_KNOWS: Final[Mapping[str, Mapping[str, str]]] = {
    "dead_letters": {"name": "name", "fingerprint": "fingerprint", "error_type": "error_type"},
    "jobs": {"function": "name"},
}
_STYLE: Final = (
    "font:13px/1.5 system-ui,sans-serif;border:1px solid rgba(128,128,128,.35);border-radius:8px;"
    "padding:8px 12px;overflow-x:auto;max-width:100%"
)


class Query:
    """Rows of one kind, not read yet. ``df()`` reads them, ``explain()`` says what that will send.

    Every method that narrows returns a new query. Rows come newest first (waiting and deferred jobs by
    due time, history oldest first).
    """

    def __init__(self, deployment: Deployment, ask: Ask) -> None:
        self._deployment = deployment
        self._ask = ask

    # -- narrowing -----------------------------------------------------------------------------

    def where(self, expression: str = "", /, **conditions: Any) -> "Query":
        """Keep rows whose columns have these values (several: one of them), or for which a pandas
        expression holds: ``where("wait_s > 5", function="data-sync")``."""
        return self._with(self._ask.where(expression, conditions))

    def since(self, moment_or_age: str | float | pd.Timestamp) -> "Query":
        """Keep what is not older: ``2h`` (ago), ``03:40`` (today, UTC), a time."""
        return self._with(replace(self._ask, since_ms=self._moment("since", moment_or_age)))

    def until(self, moment_or_age: str | float | pd.Timestamp) -> "Query":
        """Keep what is not newer."""
        return self._with(replace(self._ask, until_ms=self._moment("until", moment_or_age)))

    def head(self, count: int = SHOWN) -> "Query":
        """Keep the first *count* rows; fewer are read where Redis can count them."""
        if count < 1:
            raise InvalidRequest(f"head({count}) keeps nothing", field="count", hint="1 or more")
        limit = count if self._ask.limit is None else min(count, self._ask.limit)
        return self._with(replace(self._ask, limit=limit))

    def _moment(self, name: str, said: str | float | pd.Timestamp) -> int:
        if not self._ask.time_column:
            raise InvalidRequest(f"{self._ask.what} have no time", field=name, hint="use where()")
        return moment(name, said, time.time() * 1000)

    def _with(self, ask: Ask) -> "Query":
        return Query(self._deployment, ask)

    # -- reading -------------------------------------------------------------------------------

    def df(self) -> pd.DataFrame:
        """Read now, as a DataFrame of your own (columns, dtypes, units: docs/frames.md)."""
        return self._deployment.read(self._ask)

    def explain(self) -> Plan:
        """What ``df()`` will send, and what that costs; nothing is sent."""
        return self._deployment.plan(self._ask)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._ask.columns)

    def __len__(self) -> int:
        return len(self.df())

    def __getitem__(self, columns: str | list[str]) -> Any:
        """``df()[columns]``."""
        return self.df()[columns]

    # -- acting --------------------------------------------------------------------------------

    def retry(
        self,
        *,
        rate: str = "",
        canary: int = 0,
        canary_max_failed: float = 0.0,
        canary_wait_s: float = 300.0,
        reason: str = "",
        dry_run: bool = False,
        confirm: bool | None = None,
    ) -> ActionReport:
        """Retry the dead letters this query means; ``rate="5/s"``, ``canary=5`` try some first.

        An operation that goes on without the notebook: follow it with ``scope.watch(report)``. Asks
        before it acts where somebody can answer, unless *confirm* says not to.
        """
        pace = {
            "rate_per_s": parse_rate(rate),
            "canary": canary,
            "canary_max_failed": canary_max_failed,
            "canary_wait_s": canary_wait_s,
        }
        said = f" at {rate}" if rate else ""
        said += f", {canary} of them first" if canary else ""
        return self._act("retry", pace, said, reason=reason, dry_run=dry_run, confirm=confirm)

    def discard(
        self, *, reason: str = "", dry_run: bool = False, confirm: bool | None = None
    ) -> ActionReport:
        """Give up the dead letters this query means; undoable for 24 h."""
        return self._act("discard", {}, "", reason=reason, dry_run=dry_run, confirm=confirm)

    def export(self, path: str | Path, *, confirm: bool | None = None) -> Path:
        """Write the rows to a file (.parquet, .csv, .jsonl, .json), credentials in texts masked."""
        target = Path(path)
        suffix = target.suffix.lower().lstrip(".")
        if suffix not in SUFFIXES:
            file_of(pd.DataFrame(), suffix)  # says which there are
        if target.exists() and not agreed(f"{target} exists. Replace it?", confirm):
            raise ActionRefused(f"{target} was not replaced")
        target.write_bytes(file_of(redacted_frame(self.df()), suffix))
        return target

    def _act(
        self,
        verb: str,
        pace: dict[str, Any],
        said: str,
        *,
        reason: str,
        dry_run: bool,
        confirm: bool | None,
    ) -> ActionReport:
        orders = self._orders()
        if orders is None:
            return self._act_singly(verb, pace, reason=reason, dry_run=dry_run, confirm=confirm)
        kind = f"{verb}_letters"
        trials = [
            self._deployment.act("start_operation", kind, source, conditions, dry_run=True)
            for source, conditions in orders
        ]
        wanted = [
            order
            for order, trial in zip(orders, trials, strict=True)
            if int(trial.detail.get("matched", 0))
        ]
        total = sum(int(trial.detail.get("matched", 0)) for trial in trials)
        names = ", ".join(sorted({source for source, _ in wanted}))
        if dry_run or not wanted:
            what = f"{total:,} dead letters of {names}" if wanted else "no dead letter"
            return ActionReport(
                action=verb, changed=False, message=f"{verb} would be about {what}; nothing was changed",
                detail={"matched": total, "dry_run": True, "operations": []},
            )  # fmt: skip
        if not agreed(f"{verb} {total:,} dead letters of {names}{said}?", confirm):
            return not_agreed(verb, total)
        made = [
            self._deployment.act("start_operation", kind, source, conditions, reason=reason, **pace)
            for source, conditions in wanted
        ]
        return ActionReport(
            action=verb,
            changed=any(report.changed for report in made),
            detail={
                "matched": total,
                "operations": [report.detail["operation"] for report in made],
            },
            message="; ".join(report.message for report in made),
        )

    def _orders(self) -> list[tuple[str, dict[str, str]]] | None:
        """Source and filter of each operation that means these letters; None: none can say it."""
        ask = self._ask
        if ask.what == "causes":
            found: dict[tuple[str, str], dict[str, str]] = {}
            for row in self.df().to_dict("records"):
                for source in str(row["sources"]).split(", "):
                    found[source, row["fingerprint"]] = {"fingerprint": str(row["fingerprint"])}
            return [(source, conditions) for (source, _), conditions in found.items() if source]
        if ask.what == "jobs" and ask.state != "failed":
            raise ActionRefused(
                f"jobs in state {ask.state!r} are no dead letters; ask for state='failed'"
            )
        known = _OPERATION_KNOWS.get(ask.what)
        if known is None:
            raise ActionRefused(
                f"{ask.what} cannot be acted on; dead_letters, causes and failed jobs can"
            )
        if ask.limit is not None or ask.state in ("retrying", "closed"):
            return None
        conditions: dict[str, str] = {}
        for condition in ask.conditions:
            name = known.get(condition.column)
            value = condition.values[0] if len(condition.values) == 1 else None
            # nothing as a condition would mean: all of them
            if name is None or name in conditions or not isinstance(value, str) or not value:
                return None
            conditions[name] = value
        for name, bound in (("since", ask.since_ms), ("until", ask.until_ms)):
            if bound is not None:
                conditions[name] = str(bound)
        snapshot = self._deployment.snapshot
        sources = ask.sources or tuple(
            str(name)
            for name in (
                *snapshot.queues["queue"],
                *(snapshot.streams["stream"] if ask.what == "dead_letters" else ()),
            )
        )
        return [(source, conditions) for source in sources]

    def _act_singly(
        self,
        verb: str,
        pace: Mapping[str, Any],
        *,
        reason: str,
        dry_run: bool,
        confirm: bool | None,
    ) -> ActionReport:
        """Act letter by letter: these conditions are ours alone."""
        if self._ask.what != "dead_letters":
            raise InvalidRequest(
                "these conditions cannot be acted on", field="where",
                hint="narrow scope.dead_letters instead",
            )  # fmt: skip
        if pace.get("rate_per_s") or pace.get("canary"):
            raise InvalidRequest(
                "a rate or a canary needs conditions an operation knows", field="where",
                hint="source, name, fingerprint, error_type (one value each), since and until; no head()",
            )  # fmt: skip
        rows = self.df()
        rows = rows[rows["state"] == "new"]
        if len(rows) > ONE_BY_ONE:
            raise InvalidRequest(
                f"{len(rows):,} letters are too many to act on one by one", field="where",
                hint=f"head({ONE_BY_ONE}), or conditions an operation knows: source, name, fingerprint",
            )  # fmt: skip
        if dry_run or not len(rows):
            return ActionReport(
                action=verb, changed=False, detail={"matched": len(rows), "dry_run": True},
                message=f"{verb} would be about {len(rows)} dead letters; nothing was changed",
            )  # fmt: skip
        if not agreed(f"{verb} {len(rows)} dead letters one by one?", confirm):
            return not_agreed(verb, len(rows))
        more = {"reason": reason} if verb == "discard" else {}
        reports, refused = [], []
        for source, letter_id in zip(rows["source"], rows["id"], strict=True):
            try:
                reports.append(self._deployment.act(f"{verb}_letter", source, letter_id, **more))
            except ActionRefused as error:
                refused.append(str(error))
        if refused and not reports:
            raise ActionRefused(refused[0])
        changed = sum(report.changed for report in reports)
        return ActionReport(
            action=verb, changed=changed > 0,
            detail={"matched": len(rows), "done": changed, "refused": refused, "operations": []},
            message=f"{verb}: {changed} of {len(rows)} dead letters"
            + (f"; {len(refused)} refused: {refused[0]}" if refused else ""),
        )  # fmt: skip

    # -- looks ---------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """What it is about, in words."""
        ask = self._ask
        parts = [f"{ask.state} {ask.what}" if ask.state else ask.what.replace("_", " ")]
        parts += [f"of {', '.join(ask.sources)}"] if ask.sources else []
        parts += [ask.metric] if ask.metric else []
        parts += [
            c.expression or f"{c.column} = {' or '.join(map(str, c.values))}"
            for c in ask.conditions
        ]
        for word, bound in (("since", ask.since_ms), ("until", ask.until_ms)):
            if bound is not None:
                parts.append(f"{word} {pd.Timestamp(bound, unit='ms').strftime('%d %b %H:%M')}")
        parts += [f"first {ask.limit}"] if ask.limit else []
        return " · ".join(parts)

    def _repr_html_(self) -> str:
        """A card with the first rows; every text in it is escaped."""
        return card(self.title, self.df())

    def __repr__(self) -> str:
        return f"<query {self.title}: df() reads it, explain() says what that costs>"


def card(title: str, frame: pd.DataFrame) -> str:
    """A titled table of the first rows of *frame* as HTML, escaped; wide texts are cut."""
    shown = frame.head(SHOWN)
    silent = [name for name in shown if len(shown) and shown[name].isin(["", pd.NaT]).all()]
    shown = shown.drop(columns=[name for name in silent if shown[name].dtype != "float64"])
    for column in shown.select_dtypes("datetimetz").columns:
        shown = shown.assign(**{str(column): shown[column].dt.strftime("%d %b %H:%M:%S")})
    table = shown.to_html(
        index=False, escape=True, na_rep="–", border=0, justify="left",  # noqa: RUF001
        float_format=lambda number: f"{number:,.6g}",
    )  # fmt: skip
    table = table.replace("<table ", '<table style="font-size:inherit;border-spacing:8px 2px" ', 1)
    table = table.replace("<td>", '<td style="white-space:nowrap;text-align:left">')
    more = len(frame) - len(shown)
    foot = f"{len(frame):,} rows" + (f", {more:,} more than shown" if more else "")
    at = pd.Timestamp.now("UTC").strftime("%H:%M:%S")
    head = f"<b>{html.escape(title)}</b> <small>{foot} · read {at} UTC</small>"
    return f'<div class="arqscope-card" style="{_STYLE}">{head}{table}</div>'


def is_interactive() -> bool:
    """Whether somebody can be asked: a terminal's prompt, or a kernel whose front end answers."""
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    kernel = getattr(shell, "kernel", None)
    if kernel is not None:
        return bool(getattr(kernel, "_allow_stdin", False))
    return (shell is not None or hasattr(sys, "ps1")) and sys.stdin.isatty()


def agreed(question: str, confirm: bool | None) -> bool:
    """Whether to go on: True unless somebody is asked and does not say yes."""
    if confirm is False or (confirm is None and not is_interactive()):
        return True
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def not_agreed(verb: str, matched: int) -> ActionReport:
    """The report of an action somebody did not want after all."""
    return ActionReport(
        action=verb, changed=False, detail={"matched": matched, "operations": []},
        message="not confirmed; nothing was changed",
    )  # fmt: skip


def cells(rows: Sequence[tuple[str, Any]]) -> str:
    """Names and values as an escaped table."""
    body = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{body}</table>"
