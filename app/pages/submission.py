"""The form that submits a job: checked as a whole, its answer shown where it was asked."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from app import palette
from app.enqueue import Enqueued, JobRequest
from app.errors import InvalidRequest
from app.pages.markup import Html, heading, icon, tag
from app.snapshot import Snapshot

#: what the built-in functions are called; workers announce the rest
SUGGESTED: Final = ("ai-processing", "bulk-operation", "data-sync", "generic", "notification")
EXAMPLE: Final = '{"baseId": "appX", "records": 1000}'
MAX_DATA_CHARS: Final = 200_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the last submission."""

    text: str
    ok: bool
    field: str = ""


def request_of(fields: Mapping[str, Any]) -> tuple[str, JobRequest]:
    """The queue and the job a form asks for; InvalidRequest names the field that is wrong."""
    text = str(fields.get("data") or "").strip()
    if len(text) > MAX_DATA_CHARS:
        raise InvalidRequest(
            f"the data has {len(text):,} characters",
            field="data",
            hint=f"at most {MAX_DATA_CHARS:,}",
        )
    try:
        data = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        where = f" in line {error.lineno}, column {error.colno}" if isinstance(
            error, json.JSONDecodeError) else ""  # fmt: skip
        what = error.msg if isinstance(error, json.JSONDecodeError) else "too deep"
        raise InvalidRequest(
            f"the data is not JSON{where}: {what}", field="data", hint=f"for example {EXAMPLE}"
        ) from error
    if not isinstance(data, dict):
        raise InvalidRequest(
            "the data is not an object", field="data", hint=f"for example {EXAMPLE}"
        )
    name = str(fields.get("name") or "").strip()
    if not name:
        raise InvalidRequest("there is no function", field="name", hint="for example data-sync")
    delay = str(fields.get("delay") or "0").strip()
    try:
        delay_s = float(delay)
    except ValueError:
        raise InvalidRequest(
            f"delay={delay[:20]!r} is not a number", field="delay", hint="seconds"
        ) from None
    job_id = str(fields.get("id") or "").strip()
    queue = str(fields.get("queue") or "")
    return queue, JobRequest(name=name, args=(data,), id=job_id, delay_s=delay_s)


def accepted(queue: str, request: JobRequest, enqueued: Enqueued) -> Answer:
    """Say what became of a job."""
    if not enqueued.created:
        return Answer(f"{enqueued.id} exists already: nothing was changed.", ok=True, field="id")
    when = f", due in {palette.duration(request.delay_s)}" if request.delay_s else ""
    return Answer(f"Accepted {request.name} as {enqueued.id} on {queue}{when}.", ok=True)


def refused(error: Exception) -> Answer:
    """Say why a job was not accepted, and the remedy."""
    hint = getattr(error, "hint", None)
    fields = {"jobId": "id"}
    named = str(getattr(error, "field", None) or "")
    return Answer(
        f"{error}{f' — {hint}' if hint else ''}", ok=False, field=fields.get(named, named)
    )


def form(queues: Iterable[str], snapshot: Snapshot, answer: Answer | None) -> Html:
    """The form; what the viewer typed survives every refresh."""
    seen = {str(name) for name in snapshot.runs["function"]} | set(SUGGESTED)
    wrong = answer.field if answer and not answer.ok else ""
    names = [tag("option", value=name) for name in sorted(seen)[:100]]
    listed = [tag("option", queue, value=queue) for queue in queues]

    def asked(word: str, control: Html) -> Html:
        return tag("label", tag("span", word), control)

    def entry(name: str, **more: Any) -> Html:
        return tag("input", name=name, autocomplete="off", spellcheck="false",
                   aria_invalid="true" if wrong == name else None, **more)  # fmt: skip

    area = tag("textarea", EXAMPLE, name="data", rows="5", spellcheck="false",
               aria_invalid="true" if wrong == "data" else None)  # fmt: skip
    said = None
    if answer:
        look = palette.ICONS["warn"] if not answer.ok else palette.ICONS["done"]
        tone = "said" if answer.ok else "said wrong"
        said = tag("p", icon(look, 13), " ", answer.text, class_=tone, role="status")
    fields = [
        tag("div", asked("Queue", tag("select", listed, name="queue", aria_label="Queue")),
            asked("Function", entry("name", list="functions", value="data-sync")),
            tag("datalist", names, id="functions"), class_="cols"),
        asked("Data, a JSON object", area),
        tag("div", asked("Delay, seconds", entry("delay", inputmode="decimal", placeholder="0")),
            asked("Job id, optional", entry("id", placeholder="made for you", maxlength="128")),
            class_="cols"),
        tag("div", tag("button", "Submit job", type="submit", class_="button primary"), said,
            class_="foot"),
    ]  # fmt: skip
    return tag(
        "section",
        heading("Submit a job", anchor="submit"),
        tag("form", fields, class_="form", data_intent="submit"),
        class_="panel",
        aria_label="Submit a job",
    )
