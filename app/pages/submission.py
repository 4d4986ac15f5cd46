"""The form that submits a job: checked as a whole, its answer shown where it was asked."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from app import palette
from app.enqueue import Enqueued, JobRequest
from app.errors import InvalidRequest
from app.pages.markup import Html, select, tag
from app.snapshot import Snapshot

#: what the built-in functions are called; workers announce the rest
SUGGESTED: Final = ("ai-processing", "bulk-operation", "data-sync", "generic", "notification")
EXAMPLE: Final = '{"baseId": "appX", "records": 1000}'
MAX_DATA_CHARS: Final = 200_000


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


def accepted(queue: str, request: JobRequest, enqueued: Enqueued) -> str:
    """Say what became of a job."""
    if not enqueued.created:
        return f"{enqueued.id} exists already: nothing was changed."
    when = f", due in {palette.duration(request.delay_s)}" if request.delay_s else ""
    return f"Accepted {request.name} as {enqueued.id} on {queue}{when}."


def refused(error: Exception) -> tuple[str, str]:
    """Say why a job was not accepted with the remedy, and which field is wrong."""
    hint = getattr(error, "hint", None)
    fields = {"jobId": "id"}
    named = str(getattr(error, "field", None) or "")
    return f"{error}{f' — {hint}' if hint else ''}", fields.get(named, named)


def fields_of(
    queues: Iterable[str], snapshot: Snapshot, given: Mapping[str, Any], wrong: str = ""
) -> list[Html]:
    """The fields of the form; what was typed before is in them again."""
    seen = {str(name) for name in snapshot.runs["function"]} | set(SUGGESTED)
    names = [tag("option", value=name) for name in sorted(seen)[:100]]

    def asked(word: str, control: Html) -> Html:
        return tag("label", tag("span", word), control)

    def entry(name: str, **more: Any) -> Html:
        more = {**more, "value": given.get(name, more.get("value"))}
        return tag("input", name=name, autocomplete="off", spellcheck="false",
                   aria_invalid="true" if wrong == name else None, **more)  # fmt: skip

    area = tag("textarea", str(given.get("data", EXAMPLE)), name="data", rows="6", spellcheck="false",
               aria_invalid="true" if wrong == "data" else None)  # fmt: skip
    chosen = str(given.get("queue", ""))
    listed = [(name, name) for name in queues]
    return [
        tag("div", asked("Queue", select("queue", listed, chosen, label="Queue")),
            asked("Function", entry("name", list="functions", value="data-sync", required=True)),
            tag("datalist", names, id="functions"), class_="cols"),
        asked("Data, a JSON object", area),
        tag("div", asked("Delay, seconds", entry("delay", inputmode="decimal", placeholder="0")),
            asked("Job id, optional", entry("id", placeholder="made for you", maxlength="128")),
            class_="cols"),
    ]  # fmt: skip
