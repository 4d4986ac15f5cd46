"""Settings: what the doctor says, the Redis servers, and what is in effect, secrets masked."""

from collections.abc import Iterable
from typing import Final

from pydantic import SecretStr

from app import palette
from app.doctor.examination import examine
from app.doctor.findings import Diagnosis, Severity, in_words, together
from app.pages.address import Address
from app.pages.markup import (
    Html,
    clipped,
    figure,
    heading,
    icon,
    join,
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

_SEVERITY_LOOK: Final = {
    Severity.CRITICAL: ("failed", palette.ICONS["close"]),
    Severity.WARNING: ("queued", palette.ICONS["warn"]),
    Severity.NOTICE: ("unknown", palette.ICONS["note"]),
}


async def load(reach: Reach, address: Address) -> Diagnosis:  # noqa: ARG001 - one for all
    """Examine the deployment: a few round trips, bounded however much is stored."""
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


def _doctor(scene: Scene) -> Html:
    found: Diagnosis | None = scene.found
    if found is None:
        said = f"It cannot be examined: {scene.trouble}" if scene.trouble else "Examining …"
        return panel(heading("Doctor"), tag("p", said, class_="empty"), label="Doctor")
    made = []
    for finding in together(found.findings):
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
        heading("Doctor", in_words(found.findings) or "no hazard", f"{len(found.examined)} things examined"),
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
    text = str(value)
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


PAGE = Page(above=_above, load=load, reload_s=15.0)

__all__ = ["PAGE", "load", "shown"]
