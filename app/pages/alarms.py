"""Alerts: what fires, what fired, and what a rule would have done over the last hour."""

import contextlib
import math
from dataclasses import dataclass
from typing import Final

import pandas as pd

from app import alerts, audit, palette
from app.alerts import Alert, AlertState
from app.alerts.backtest import backtest
from app.alerts.rules import BUILT_IN_ALERTS, AlertRule, load_alert_rules
from app.annals.hindsight import alert_then
from app.errors import ArqscopeError
from app.pages import travel
from app.pages.address import Address
from app.pages.markup import (
    Html,
    button,
    clipped,
    heading,
    icon,
    join,
    moment,
    moment_ms,
    panel,
    records,
    row,
    safe_text,
    select,
    table,
    tag,
)
from app.pages.scene import Page, Reach, Scene

LISTED: Final = 100
#: what a back-test can move over: columns of the queues' history
METRICS: Final = {
    "waiting": "jobs waiting", "dead_open": "open dead letters", "wait_p95_s": "wait p95, s",
    "run_p95_s": "run p95, s", "failed_per_s": "failed runs per second",
}  # fmt: skip
#: what rules watch that a back-test cannot
_RULED: Final = {
    **METRICS, "workers_missing": "queues without a worker", "failure_share": "share of runs that failed",
}  # fmt: skip
#: of them, what is counted in whole numbers
_COUNTS: Final = {"waiting", "dead_open", "workers_missing"}
_LOOK: Final = {
    AlertState.FIRING: ("failed", "alerts"),
    AlertState.ACKNOWLEDGED: ("queued", "done"),
    AlertState.RESOLVED: ("complete", "done"),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The newest alerts and the rules that are watched."""

    alerts: list[Alert]
    rules: tuple[AlertRule, ...]
    trouble: str = ""


async def load(reach: Reach, address: Address) -> Found:
    """Read the alerts from the cache Redis, the rules from arqscope.toml."""
    then = travel.then_asked(address)
    if then is None:
        newest = await alerts.newest(reach.connections.cache, LISTED)
    else:
        newest = await _as_of(reach, then)
    try:
        rules = load_alert_rules(reach.settings.config_file)
    except ArqscopeError as error:
        return Found(newest, BUILT_IN_ALERTS, str(error))
    return Found(newest, rules)


async def _as_of(reach: Reach, then_ms: float) -> list[Alert]:
    """The alerts that had fired by then, as they stood."""
    kept = await alerts.newest(reach.connections.cache, alerts.ALERTS_KEPT)
    ids = {alert.id for alert in kept if alert.since_ms <= then_ms}
    lines, _ = await audit.about(reach.connections.queue, ids, int(then_ms))
    found = [alert_then(alert, lines, then_ms) for alert in kept]
    return [alert for alert in found if alert is not None][:LISTED]


def _above(scene: Scene) -> Html:
    found: Found | None = scene.found
    title = tag("div", tag("h1", "Alerts"), class_="title")
    if scene.trouble or found is None:
        said = f"The alerts cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return join(title, panel(tag("p", said, class_="empty"), label="Alerts"), _backtest(scene))
    return join(
        title,
        _table(scene, found.alerts),
        _then(scene, found),
        _rules(found, "as they are now" if scene.is_past else ""),
        _backtest(scene),
    )


def _then(scene: Scene, found: Found) -> Html | None:
    """Of the past: what the rules of now say about the hour that is stored before the moment."""
    history = scene.snapshot.history
    if not scene.is_past or history.empty:
        return None
    with contextlib.suppress(ArqscopeError):
        fired = backtest(history, found.rules)
        return panel(
            heading("What today's rules say of the hour before",
                    "computed now from stored minutes: alerts that fired again since have no record of then"),
            _firings_table(fired, scene.now) or tag("p", "None of them would have fired.", class_="empty"),
            label="What today's rules say of the hour before",
        )  # fmt: skip
    return None


def _table(scene: Scene, listed: list[Alert]) -> Html:
    made = []
    for alert in listed:
        css, mark = _LOOK[alert.state]
        silent = alert.silenced_until_ms > scene.now.timestamp() * 1000
        made.append(
            row(
                alert.id,
                (tag("span", icon(palette.ICONS[mark], 12), tag("span", str(alert.state)),
                     class_=f"state c-{css}"), ""),
                (clipped(alert.severity, 20, kind="soft"), "opt"),
                (tag("span", tag("b", safe_text(alert.title, 120)), " ", safe_text(alert.detail, 300),
                     class_="clip", title=alert.detail[:400]), "wide"),
                (clipped(alert.source, 128, kind="soft"), "opt"),
                (moment_ms(alert.since_ms, scene.now), "soft opt"),
                (moment_ms(alert.last_ms, scene.now), "soft opt"),
                (clipped("silent" if silent else alert.delivery, 80, kind="soft"), "opt"),
                *([(_controls(alert), "act")] if scene.may_act else []),
            )
        )  # fmt: skip
    columns = [("State", ""), ("Severity", "opt"), ("What", ""), ("Where", "opt"), ("Since", "opt"),
               ("Last", "opt"), ("Message", "opt"), *([("", "act")] if scene.may_act else [])]  # fmt: skip
    word, nothing = "Now and lately", "No alert has fired yet."
    note = ""
    if scene.is_past:
        word, nothing = "As they stood then", "No alert that is stored had fired by then."
        note = "kept for 7 days; one that fired again since is not listed"
    firing = sum(1 for alert in listed if alert.state is AlertState.FIRING)
    return panel(
        heading(word, f"{firing} firing" if firing else "none is firing", note),
        table(columns, made, caption="Alerts, newest first", empty=nothing),
        label=word,
    )  # fmt: skip


def _controls(alert: Alert) -> Html | None:
    if alert.state is not AlertState.FIRING:
        return None
    name = alert.title[:60]
    return tag(
        "span",
        button("Acknowledge", "acknowledge", kind="quiet once", alert=alert.id,
               label=f"Acknowledge {name}"),
        tag("span", button("Silence 1 h", "silence", kind="plain once", alert=alert.id,
                           label=f"Silence 1 h: {name}"), class_="opt"),
        class_="row-actions",
    )  # fmt: skip


def _rules(found: Found, note: str = "") -> Html:
    made = [
        row(
            rule.name,
            (clipped(rule.name, 80), ""),
            (in_words(rule), "told fair"),
            (clipped(rule.severity, 20, kind="soft"), "opt"),
            (clipped(_queues_of(rule), 80, kind="soft"), "opt"),
        )
        for rule in found.rules
    ]
    said = tag("p", found.trouble, class_="empty") if found.trouble else None
    return panel(
        heading("Rules", "from arqscope.toml; the built-in ones are always watched", note),
        said,
        table([("Name", ""), ("Fires when", ""), ("Severity", "opt"), ("Queues", "opt")], made,
              caption="Rules", empty="No rule."),
        label="Rules",
    )  # fmt: skip


def _queues_of(rule: AlertRule) -> str:
    return "all" if set(rule.source) == {"*"} else ", ".join(rule.source)


def in_words(rule: AlertRule) -> str:
    """When a rule fires: ``share of runs that failed above 50% for 2 m``."""
    word = _RULED.get(rule.metric, rule.metric)
    is_above = rule.above is not None
    limit = rule.above if rule.above is not None else (rule.below or 0.0)
    if rule.metric in _COUNTS and limit % 1:  # half a job is none
        said = f"at least {math.ceil(limit):,}" if is_above else f"at most {math.floor(limit):,}"
    else:
        shown = f"{limit:.0%}" if rule.metric == "failure_share" else f"{limit:,g}"
        said = f"{'above' if is_above else 'below'} {shown}"
    return f"{word} {said} for {palette.plain_duration(rule.for_s)}"


def _rule(address: Address) -> AlertRule | str:
    metric = address.get("metric", "waiting")
    try:
        above, for_s = float(address.get("above", "10")), float(address.get("for", "5"))
    except ValueError:
        return "The threshold and the time are numbers."
    if metric not in METRICS or not math.isfinite(above) or not 0 <= for_s <= 3600:
        return "The threshold is a number, the time at most 3,600 s."
    return AlertRule(name="trial", metric=metric, above=above, for_s=for_s)


def _backtest(scene: Scene) -> Html:
    address, history = scene.address, scene.snapshot.history
    form = tag(
        "form",
        select("metric", METRICS.items(), address.get("metric", "waiting"), label="Metric"),
        tag("span", "above", class_="soft"),
        tag("input", name="above", value=address.get("above", "10"), inputmode="decimal",
            aria_label="Threshold", style="width:80px"),
        tag("span", "for", class_="soft"),
        tag("input", name="for", value=address.get("for", "5"), inputmode="decimal",
            aria_label="Seconds above the threshold", style="width:64px"),
        tag("span", "s", class_="soft"),
        tag("button", "Test", type="submit", class_="button"),
        data_go="alerts",
    )  # fmt: skip
    rule = _rule(address)
    if isinstance(rule, str):
        shown: Html = tag("p", rule, class_="empty")
    elif history.empty:
        shown = tag("p", "There is no history yet.", class_="empty")
    else:
        shown = _firings(history, rule, scene.now)
    span = (scene.now - history["at"].iloc[0]).total_seconds() if not history.empty else 0.0
    span -= span % 60 if span >= 60 else span % 1  # what flickers says nothing
    note = f"over the {palette.span(span)} of history this server holds" if span else ""
    return panel(
        heading("Would it have fired?", note),
        tag("div", form, class_="toolbar"), shown, label="Would it have fired?",
    )  # fmt: skip


def _firings(history: pd.DataFrame, rule: AlertRule, now: pd.Timestamp) -> Html:
    fired = backtest(history, [rule])
    often = {0: "not have fired", 1: "have fired once"}.get(
        len(fired), f"have fired {len(fired)} times"
    )
    times = f"It would {often}."
    listed = _firings_table(fired, now)
    return tag("div", tag("p", tag("b", times), class_="body", role="status"), listed)


def _firings_table(fired: pd.DataFrame, now: pd.Timestamp) -> Html | None:
    made = [
        row(
            f"{f['source']}-{f['fired']}",
            (clipped(f["source"], 128), "wide"),
            (moment(f["fired"], now), "soft"),
            (moment(f["resolved"], now) if not pd.isna(f["resolved"]) else "still", "soft"),
            (f"{f['peak']:,.4g}", "num"),
        )
        for f in records(fired.tail(20).iloc[::-1])
    ]
    return table([("Queue", ""), ("Fired", ""), ("Ended", ""), ("Worst", "num")], made,
                   caption="Firings", empty="") if made else None  # fmt: skip


PAGE = Page(above=_above, load=load, reads_past=True)

__all__ = ["PAGE", "Found", "in_words", "load"]
