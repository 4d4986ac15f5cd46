"""Forms that publish: a test event, a replay of a range, a notification. Checked by the actions they call."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from app import actions, palette
from app.actions import Actor, Connections
from app.errors import InvalidRequest
from app.operations import parse_rate
from app.pages.markup import Html, join, select, tag
from app.pages.window import moment_of
from app.settings import Settings

#: name of a form → its title, and what its button says
FORMS: Final[Mapping[str, tuple[str, str]]] = {
    "publish": ("Publish an event", "Publish event"),
    "replay": ("Replay a range of {stream}", "Replay"),
    "notify": ("Send a notification", "Send notification"),
}
MAX_DATA_CHARS: Final = 200_000
_FILTERS: Final = ("type", "user", "workspace", "correlation")
To = tuple[Connections, Settings, Actor]


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a form: a sentence, where to look, and whether the form stays open."""

    text: str
    link: tuple[str, str] | None = None  #: (label, address)
    stays: bool = False


def fields_of(what: str, given: Mapping[str, Any], wrong: str) -> Html:
    """The fields of a form; what was typed before is in them again."""
    made = {"publish": _publish, "replay": _replay, "notify": _notify}
    return made[what]({name: str(value) for name, value in given.items()}, wrong)


async def send(to: To, what: str, asked: Mapping[str, str], fields: Mapping[str, Any]) -> Told:
    """Do what a form asks for; InvalidRequest names the field that is wrong."""
    made = {"publish": _send_event, "replay": _send_replay, "notify": _send_notification}
    return await made[what](to, asked, {str(n): str(v).strip() for n, v in fields.items()})


def _asked(word: str, name: str, given: Mapping[str, str], wrong: str, **more: Any) -> Html:
    value = given.get(name, more.pop("usual", ""))
    return tag(
        "label", tag("span", word),
        tag("input", name=name, value=value, autocomplete="off", spellcheck="false",
            aria_invalid="true" if name == wrong else None, **more),
    )  # fmt: skip


def _area(word: str, name: str, value: str, wrong: str) -> Html:
    area = tag("textarea", value, name=name, rows="5", spellcheck="false",
               aria_invalid="true" if name == wrong else None)  # fmt: skip
    return tag("label", tag("span", word), area)


# -- a test event ---------------------------------------------------------------------------------


def _publish(given: Mapping[str, str], wrong: str) -> Html:
    return join(
        tag("p", "It is an event like any other: the handlers and trigger rules of its type run.",
            class_="effect"),
        tag("div", _asked("Type", "type", given, wrong, usual="airtable.base.created", required=True,
                          maxlength="128"),
            _asked("User, optional", "user", given, wrong, maxlength="256"), class_="cols"),
        _area("Data, JSON", "data", given.get("data", '{"baseId": "appXXXXXX"}'), wrong),
        tag("div", _asked("Workspace, optional", "workspace", given, wrong, maxlength="256"),
            _asked("Correlation id, optional", "correlation", given, wrong, maxlength="256"),
            class_="cols"),
    )  # fmt: skip


async def _send_event(to: To, asked: Mapping[str, str], fields: Mapping[str, str]) -> Told:
    if not fields.get("type"):
        raise InvalidRequest("there is no type", field="type", hint="airtable.base.created")
    report = await actions.publish_event(
        *to, fields["type"], _json(fields.get("data", "")), user_id=fields.get("user", ""),
        workspace_id=fields.get("workspace", ""), correlation_id=fields.get("correlation", ""),
        stream=asked.get("stream", ""),
    )  # fmt: skip
    return Told(f"{report.message}.")


def _json(text: str) -> Any:
    if len(text) > MAX_DATA_CHARS:
        raise InvalidRequest(
            f"the data has {len(text):,} characters",
            field="data",
            hint=f"at most {MAX_DATA_CHARS:,}",
        )
    try:
        return json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        where = ""
        if isinstance(error, json.JSONDecodeError):
            where = f" in line {error.lineno}, column {error.colno}: {error.msg}"
        raise InvalidRequest(f"the data is not JSON{where}", field="data") from error


# -- a replay -------------------------------------------------------------------------------------


def _replay(given: Mapping[str, str], wrong: str) -> Html:
    counting = given.get("count", "on" if "reason" not in given else "")
    return join(
        tag("p", "Copies of the events of the range are appended, marked as replayed: handlers run "
                 "again, and their effects happen again.", class_="effect"),
        tag("div", _asked("From, UTC", "from", given, wrong, placeholder="2026-11-25 23:40"),
            _asked("To, empty: now", "to", given, wrong), class_="cols"),
        tag("div", _asked("Type, exact or user.*", "type", given, wrong),
            _asked("User", "user", given, wrong), class_="cols"),
        tag("div", _asked("Rate", "rate", given, wrong, usual="50/s",
                          placeholder="50/s, 600/min; empty: full speed"),
            _asked("Reason, kept in the record", "reason", given, wrong, maxlength="400"),
            class_="cols"),
        tag("label", tag("input", type="checkbox", name="count", checked=bool(counting)),
            tag("span", "Only count what would be replayed"), class_="check"),
    )  # fmt: skip


async def _send_replay(to: To, asked: Mapping[str, str], fields: Mapping[str, str]) -> Told:
    chosen = {name: fields[name] for name in _FILTERS if fields.get(name)}
    for name in ("from", "to"):
        if fields.get(name):
            ms = moment_of(fields[name])
            chosen[name] = fields[name] if ms is None else str(int(ms))
    is_dry = bool(fields.get("count"))
    report = await actions.start_operation(
        *to, "replay_events", asked.get("stream", ""), chosen,
        reason=fields.get("reason", ""), rate_per_s=parse_rate(fields.get("rate", "")), dry_run=is_dry,
    )  # fmt: skip
    if is_dry:
        count = palette.count(report.detail["matched"])
        return Told(f"{count} events would be copied. Untick the box to replay them.", stays=True)
    return Told("The replay is under way.", ("Watch it", "operations"))


# -- a notification -------------------------------------------------------------------------------


def _notify(given: Mapping[str, str], wrong: str) -> Html:
    kinds = [("user", "one user"), ("workspace", "one workspace"), ("system", "everybody")]
    return join(
        tag("p", "Who listens now hears it; who comes back within an hour hears it then.",
            class_="effect"),
        tag("div",
            tag("label", tag("span", "To"), select("kind", kinds, given.get("kind", "user"), label="To")),
            _asked("Id of the user or workspace", "receiver", given, wrong, maxlength="128"),
            class_="cols"),
        _asked("Type", "type", given, wrong, usual="notification", maxlength="64"),
        _area("Message: text, or a JSON object", "message", given.get("message", "Welcome"), wrong),
    )  # fmt: skip


async def _send_notification(to: To, asked: Mapping[str, str], fields: Mapping[str, str]) -> Told:  # noqa: ARG001
    kind, receiver = fields.get("kind", "user"), fields.get("receiver", "")
    if kind != "system" and not receiver:
        raise InvalidRequest(
            f"there is no {kind}", field="receiver", hint="the id, such as user123"
        )
    channel = "system:broadcast" if kind == "system" else f"{kind}:{receiver}"
    text = fields.get("message", "")
    message = _json(text) if text.startswith("{") else text
    report = await actions.notify(*to, channel, message, fields.get("type") or "notification")
    return Told(f"{report.message}.")


__all__ = ["FORMS", "Told", "fields_of", "send"]
