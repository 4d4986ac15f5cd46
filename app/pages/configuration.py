"""Settings: what the doctor says, the Redis servers, and what is in effect, secrets masked."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pandas as pd
from pydantic import SecretStr

from app import palette
from app.analyses.deploys import told_once
from app.annals.historian import MOMENT_ROWS
from app.doctor.examination import examine
from app.doctor.findings import Diagnosis, Severity, in_words, together
from app.pages import travel
from app.pages.address import Address
from app.pages.markup import (
    Html,
    clipped,
    figure,
    heading,
    icon,
    join,
    moment,
    panel,
    records,
    row,
    safe_text,
    table,
    tag,
)
from app.pages.overview import known, stale
from app.pages.scene import Page, Reach, Scene
from app.palette import JOB_LOOK
from app.records import JobState
from app.settings import Settings, environment_names, masked_url

#: how far back changes before a moment are looked for, and how many are listed
BEFORE_MS: Final = 7 * 86_400_000
MARKS: Final = 50
_SEVERITY_LOOK: Final = {
    Severity.CRITICAL: ("failed", palette.ICONS["close"]),
    Severity.WARNING: ("queued", palette.ICONS["warn"]),
    Severity.NOTICE: ("unknown", palette.ICONS["note"]),
}


@dataclass(frozen=True, slots=True)
class Before:
    """What is stored of the days before a moment: deploys, pauses, operations."""

    marks: pd.DataFrame


async def load(reach: Reach, address: Address) -> Diagnosis | Before:
    """Examine the deployment: a few round trips, bounded however much is stored; of then, what is kept."""
    then = travel.then_asked(address)
    if then is not None:
        return Before(await reach.recall.marks(then - BEFORE_MS, then))
    return await examine(reach.connections, reach.settings)


def _above(scene: Scene) -> Html:
    return join(
        tag("div", tag("h1", "Settings"), class_="title"),
        _doctor(scene),
        _servers(scene),
        panel(
            heading("In effect", "read once at the start; each is an environment variable"),
            table([("Name", ""), ("Value", ""), ("What it is", "opt")], _settings(scene.settings),
                  caption="Settings in effect", empty=""),
            label="Settings in effect",
        ),
    )  # fmt: skip


def past(scene: Scene) -> Html:
    """What is stored of then: the servers, who ran which version, what was changed; and what is not."""
    return join(
        tag("div", tag("h1", "Settings"), class_="title"),
        panel(
            heading("Not stored"),
            tag("p", "Which settings were in effect then, and what the doctor would have said, is not stored. "
                     "Below is what is: the Redis servers, the workers' versions, and what was deployed or changed.",
                class_="body"),
            label="Not stored",
        ),
        _servers(scene),
        _versions(scene),
        _changed(scene),
    )  # fmt: skip


def _versions(scene: Scene) -> Html:
    workers = scene.snapshot.workers
    grouped = workers.groupby(["source", "version"], observed=True, sort=True, as_index=False).agg(
        workers=("id", "size"), first=("since", "min")
    )
    made = [
        row(f"{one['source']}-{one['version']}", (clipped(one["source"], 128), "wide"),
            (clipped(one["version"] or "not told", 80, kind="mono"), ""),
            (palette.count(one["workers"]), "num"), (moment(one["first"], scene.now), "soft"))
        for one in records(grouped)
    ]  # fmt: skip
    cut = f"of the first {MOMENT_ROWS} processes" if len(workers) >= MOMENT_ROWS else ""
    return panel(
        heading("Versions that ran", "as the workers' heartbeats told", cut),
        table([("Queue or stream", ""), ("Version", ""), ("Processes", "num"), ("First since", "")], made,
              caption="Versions that ran", empty=known(scene.snapshot, "No worker was alive.")),
        label="Versions that ran",
    )  # fmt: skip


def _changed(scene: Scene) -> Html:
    word = "What was changed"
    if scene.trouble or not isinstance(scene.found, Before):
        said = f"It cannot be read: {scene.trouble}" if scene.trouble else "Reading …"
        return panel(heading(word), tag("p", said, class_="empty"), label=word)
    marks = told_once(scene.found.marks)
    made = [
        row(f"{mark['kind']}-{mark['at'].value}-{mark['source']}", (str(mark["kind"]).replace("_", " "), ""),
            (clipped(mark["source"] or "all queues", 128, kind="soft"), "opt"), (clipped(mark["text"], 300), "wide"),
            (clipped(mark["actor"] or palette.UNKNOWN, 80, kind="soft"), "opt"), (moment(mark["at"], scene.now), "soft"))
        for mark in records(marks.tail(MARKS).iloc[::-1])
    ]  # fmt: skip
    return panel(
        heading(word, "deploys, pauses, slots and operations of the 7 days before, newest first"),
        table([("What", ""), ("Where", "opt"), ("Detail", ""), ("Who", "opt"), ("When", "")], made,
              caption="What was changed, newest first", empty="Nothing of it is stored."),
        label=word,
    )  # fmt: skip


def _doctor(scene: Scene) -> Html:
    found: Diagnosis | None = scene.found
    if found is None:
        said = f"It cannot be examined: {scene.trouble}" if scene.trouble else "Examining …"
        return panel(heading("Doctor"), tag("p", said, class_="empty"), label="Doctor")
    made = []
    listed = together(found.findings)
    for finding in listed:
        css, mark = _SEVERITY_LOOK[finding.severity]
        made.append(
            row(
                f"{finding.where} {finding.hazard}",
                (tag("span", icon(mark, 12), str(finding.severity), class_=f"state c-{css}"), ""),
                (tag("div", tag("p", tag("b", safe_text(finding.sentence, 300))),
                     tag("p", safe_text(finding.where, 300), " · ", safe_text(finding.evidence, 400),
                         class_="soft"),
                     tag("p", "→ ", safe_text(finding.remedy, 300))), "told"),
            )
        )  # fmt: skip
    unknown = [
        tag("p", "Not known: ", safe_text(reason, 300), class_="body soft")
        for reason in found.unknown
    ]
    return panel(
        heading("Doctor", in_words(listed) or "no hazard", f"{len(found.examined)} things examined"),
        table([("Severity", ""), ("What, where and what shows it, what to do", "")], made,
              caption="Hazards, the worst first", empty="Nothing we know of is wrong."),
        *unknown,
        label="Doctor",
    )  # fmt: skip


def _settings(settings: Settings) -> Iterable[Html]:
    for variable, described in environment_names().items():
        field = _field(variable)
        if not field:
            continue
        value = getattr(settings, field)
        yield row(
            variable,
            (tag("code", variable), ""),
            (clipped(shown(value), 300, kind="mono"), "wide"),
            (tag("span", safe_text(described, 200), class_="note"), "opt"),
        )


def shown(value: object) -> str:
    """A setting's value as text; a secret says only whether it is set."""
    if isinstance(value, SecretStr):
        return "set, not shown" if value.get_secret_value() else "empty"
    if value is None:
        return "not set"
    if isinstance(value, (list, tuple, frozenset, set)):
        return ", ".join(str(part) for part in value) or "none"
    text = str(value) or "empty"
    return masked_url(text) if "://" in text else text


def _field(variable: str) -> str:
    for name, field in Settings.model_fields.items():
        alias = getattr(field.validation_alias, "choices", None)
        if variable == (str(alias[0]) if alias else name.upper()):
            return name
    return ""


def _servers(scene: Scene) -> Html:
    snapshot, made = scene.snapshot, []
    for server in records(snapshot.redis):
        is_up = bool(server["up"])
        look = JOB_LOOK[JobState.COMPLETE if is_up else JobState.FAILED]
        limit = palette.size(server["max_memory_bytes"])
        if is_up and limit == palette.UNKNOWN:
            limit = "none"
        made.append(
            row(
                str(server["role"]),
                (tag("span", icon(look.icon, 12), "up" if is_up else "down",
                     class_=f"state c-{'complete' if is_up else 'failed'}"), ""),
                (str(server["role"]), ""),
                (clipped(server["version"], 30, kind="soft"), "opt"),
                (figure(palette.size(server["memory_bytes"]), why="not told"), "num"),
                (figure(limit, why="not told"), "num opt"),
                (clipped(server["policy"], 40, kind="soft"), "opt"),
                ("yes" if server["aof"] else "no", "opt"),
                (figure(palette.count(server["clients"]), why="not told"), "num opt"),
                (figure(palette.count(server["ops_per_s"]), why="not told"), "num"),
                (figure(palette.duration(server["uptime_s"]), why="not told"), "num opt"),
                (clipped(server["problem"], 300, kind="soft") if server["problem"] else "none", "wide"),
            )
        )  # fmt: skip
    columns = [("State", ""), ("Redis", ""), ("Version", "opt"), ("Memory", "num"), ("Limit", "num opt"),
               ("Eviction", "opt"), ("Append-only", "opt"), ("Clients", "num opt"), ("Commands/s", "num"),
               ("Up for", "num opt"), ("Problem", "")]  # fmt: skip
    return panel(
        heading("Redis servers", "what they say of themselves"),
        table(columns, made, caption="Redis servers", empty=known(snapshot, "None is known.")),
        label="Redis servers", css=stale(snapshot),
    )  # fmt: skip


PAGE = Page(above=_above, load=load, past=past, reads_past=True, reload_s=15.0)

__all__ = ["PAGE", "load", "shown"]
