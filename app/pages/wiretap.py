"""Pub/Sub: what is published on channels of a pattern, live, and what channels remember."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis

from app import keys, palette
from app.pages.address import Address, href
from app.pages.markup import (
    Html,
    button,
    clipped,
    heading,
    icon,
    join,
    link,
    moment_ms,
    panel,
    row,
    table,
    tag,
)
from app.pages.scene import Page, Reach, Scene
from app.pages.values import block, text_of
from app.streams import notifications
from app.streams.entries import asked
from app.streams.tails import Tail

#: what is followed when nothing else is asked for: the notifications of this project
USUAL: Final = "user:*"
#: patterns offered, and what they are
OFFERED: Final = (
    ("user:*", "users"), ("workspace:*", "workspaces"), ("system:*", "everybody"),
    ("*", "every channel"),
)  # fmt: skip
#: what Redis tells of its keys: heard where it is asked for by this name only
OF_KEYS: Final = "__keyspace@*"
SHOWN: Final = 100
CHANNELS: Final = 20
_WILD: Final = re.compile(r"[*?\[\\]")


@dataclass(frozen=True, slots=True)
class Shown:
    """One message as the page shows it."""

    key: str
    at_ms: float
    channel: str
    text: str
    is_old: bool = False  #: remembered by its channel, from before somebody looked


@dataclass(frozen=True, slots=True)
class Found:
    """What was heard, newest first, and which channels spoke lately."""

    tail: Tail
    messages: list[Shown]
    channels: list[tuple[str, float]]


def pattern_of(address: Address) -> str:
    """The pattern an address asks for."""
    return address.get("pattern", USUAL)


async def load(reach: Reach, address: Address) -> Found:
    """What the tail heard; of one channel also what it remembers from before."""
    pattern, text = pattern_of(address), address.get("text").lower()
    tail = replace(reach.ear.look(pattern))  # the numbers of this moment, as the list is
    cache = reach.connections.cache
    messages = [Shown(f"n{m.number}", m.at_ms, m.channel, m.text) for m in reversed(tail.messages)]
    if not _WILD.search(pattern):
        messages += await _remembered(cache, pattern, tail)
    if text:
        messages = [m for m in messages if text in m.text.lower() or text in m.channel.lower()]
    listed = await asked(cache.zrevrange(keys.REPLAY_CHANNELS, 0, CHANNELS - 1, withscores=True))
    return Found(tail, messages[:SHOWN], [(str(name), float(ms)) for name, ms in listed])


async def _remembered(cache: Redis, channel: str, tail: Tail) -> list[Shown]:
    found = await notifications.remembered(cache, channel, "0")
    live = {notifications.id_of(m.text) for m in tail.messages}
    return [
        Shown(f"r{entry_id}", float(entry_id.partition("-")[0]), channel, text, is_old=True)
        for entry_id, text in reversed(found.notifications)
        if entry_id not in live
    ]


def _above(scene: Scene) -> Html:
    pattern = pattern_of(scene.address)
    kind, _, receiver = pattern.partition(":")
    given = {"kind": kind, "receiver": receiver} if kind in ("user", "workspace") and not _WILD.search(
        pattern) else {}  # fmt: skip
    send = button("Send a notification", "ask", mark=palette.ICONS["add"], what="notify", **given)
    return join(
        tag("div", tag("h1", "Pub/Sub"), tag("span", send, class_="end") if scene.may_act else None,
            class_="title"),
        tag("div", _tail(scene, pattern), _channels(scene), class_="beside"),
    )  # fmt: skip


def _tail(scene: Scene, pattern: str) -> Html:
    found: Found | None = scene.found if isinstance(scene.found, Found) else None
    form = tag(
        "form",
        tag("input", type="search", name="pattern", value=pattern, list="patterns", aria_label="Pattern of channels",
            placeholder="user:*", autocomplete="off", spellcheck="false"),
        tag("datalist", [tag("option", value=p, label=word) for p, word in OFFERED], id="patterns"),
        tag("input", type="search", name="text", value=scene.address.get("text"), placeholder="Text in it",
            aria_label="Text", autocomplete="off"),
        tag("button", "Follow", type="submit", class_="button"),
        data_go="pubsub",
    )  # fmt: skip
    quick = [
        link(href("pubsub", pattern=p), word, class_="button plain",
             aria_current="true" if p == pattern else None)
        for p, word in OFFERED
    ]  # fmt: skip
    tools = tag("div", form, tag("span", quick, class_="opt"), class_="toolbar", data_key="tools")
    of_keys = link(href("pubsub", pattern=OF_KEYS), "show them") if (
        found is not None and found.tail.hidden) else None  # fmt: skip
    head = heading("Live", _told(found, pattern), of_keys)
    if scene.trouble:
        body = tag("p", f"The channels cannot be heard: {scene.trouble}", class_="empty")
    elif found is None:
        body = tag("p", "Listening …", class_="empty")
    else:
        made: list[Html] = []
        for one in found.messages:
            made += _rows(scene, one)
        body = table(
            [("", "tick"), ("Channel", ""), ("Type", "opt"), ("Message", ""), ("When", "")], made,
            caption="Messages, newest first", empty=_nothing(scene, found),
        )  # fmt: skip
    return panel(head, tools, tag("div", body, class_="tail"), label="Live")


def _told(found: Found | None, pattern: str) -> str:
    if found is None:
        return f"channels like {pattern[:60]}"
    tail = found.tail
    if tail.trouble:
        return f"cut off: {tail.trouble}"
    if not tail.is_followed:
        return f"beginning to listen to {pattern[:60]} …"
    word = "message" if tail.heard == 1 else "messages"
    kept = f", the newest {SHOWN} are shown" if tail.heard > SHOWN else ""
    hidden = f"; {palette.count(tail.hidden)} about Redis' own keys hidden" if tail.hidden else ""
    return (
        f"{palette.count(tail.heard)} {word} on {pattern[:60]} since somebody looks{kept}{hidden}"
    )


def _nothing(scene: Scene, found: Found) -> str:
    if scene.address.get("text"):
        return "No message heard so far holds this text."
    if found.tail.is_followed:
        return "Nothing was published yet. This page listens for as long as it is open."
    return "Listening …"


def _rows(scene: Scene, one: Shown) -> list[Html]:
    kind, message = _parts(one.text)
    more = f"more-{one.key}"
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist",
                data_opens=more, aria_expanded="false", aria_label=f"Show message {one.key}")  # fmt: skip
    old = tag("span", "remembered", class_="badge c-unknown", title="sent before this page listened") if (
        one.is_old) else None  # fmt: skip
    shown = tag("tr", tag("td", block(_pretty(one.text), label="Message"), colspan="5"), class_="more",
                hidden=True, data_own=True, data_key=more)  # fmt: skip
    where = href("pubsub", pattern=one.channel)
    return [
        row(
            one.key,
            (twist, "tick"),
            (link(where, clipped(one.channel, 160, kind="mono")), "id"),
            (clipped(kind, 80, kind="soft") if kind else "", "opt"),
            (tag("span", clipped(message, 300), " ", old, class_="cause-line"), "wide"),
            (moment_ms(one.at_ms, scene.now), "soft"),
        ),
        shown,
    ]


def _parts(text: str) -> tuple[str, str]:
    """Type and message of what a notification says; of anything else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "", text
    if not isinstance(value, dict) or "message" not in value:
        return "", text
    message = value["message"]
    said = message if isinstance(message, str) else text_of(message, indent=None)
    return str(value.get("type", "")), said


def _pretty(text: str) -> str:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text_of(value)


def _channels(scene: Scene) -> Html:
    found: Found | None = scene.found if isinstance(scene.found, Found) else None
    made = [
        row(name, (link(href("pubsub", pattern=name), clipped(name, 160, kind="mono")), "wide"),
            (moment_ms(ms, scene.now), "soft"))
        for name, ms in (found.channels if found else [])
    ]  # fmt: skip
    nothing = "Reading …" if found is None and not scene.trouble else (
        "No notification was sent within the last hour.")  # fmt: skip
    return panel(
        heading("Channels that spoke lately", f"the newest {CHANNELS}; each remembers its last "
                f"{notifications.KEPT} notifications for an hour"),
        table([("Channel", ""), ("Last", "")], made, caption="Channels that spoke lately",
              empty=nothing),
        label="Channels that spoke lately",
    )  # fmt: skip


PAGE = Page(above=_above, load=load, reload_s=1.0)

__all__ = ["PAGE", "Found", "load", "pattern_of"]
