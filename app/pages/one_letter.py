"""One dead letter: its error, its attempts, what it carried, what was decided and why, its retries."""

import contextlib
import json
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from redis.exceptions import RedisError

from app import palette, reader
from app.analyses.explain import CHANGE_COLUMNS
from app.enqueue import codec_of
from app.errors import InvalidRequest
from app.explanation import changes_before
from app.frames import empty_frame
from app.pages.address import Address, href
from app.pages.letters import look_of
from app.pages.markup import (
    Html,
    button,
    clipped,
    facts,
    figure,
    icon,
    join,
    link,
    moment_ms,
    panel,
    safe_text,
    tabs,
    tag,
)
from app.pages.one_cause import changed
from app.pages.scene import Page, Reach, Scene
from app.pages.values import arguments_block, block, text_of
from app.reader import LetterDetail
from app.records import LetterState

#: the last moment a calendar of four digits has
LAST_MS: Final = 253_402_300_799_000
TABS: Final = {"error": "Error", "data": "Data", "trail": "Trail"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told(LetterDetail):
    """A letter, and what changed in the hour before it died."""

    changes: pd.DataFrame


async def load(reach: Reach, address: Address) -> LetterDetail | str:
    """The letter, or ``gone``."""
    source, letter_id = address.get("source"), address.get("id")
    if not source or not letter_id:
        raise InvalidRequest("the address names no letter", field="id")
    is_stream = source == reach.settings.stream_name
    redis = reach.connections.streams if is_stream else reach.connections.holding(source)
    found = await reader.letter(redis, source, letter_id, codec=codec_of(reach.settings))
    if found is None:
        return "gone"
    died_ms = min(max(0, found.letter.died_ms), LAST_MS)
    died = pd.Timestamp(died_ms, unit="ms", tz="UTC").as_unit("us")

    async def read() -> pd.DataFrame:
        return await changes_before(reach.connections.queue, died)

    changes = empty_frame(CHANGE_COLUMNS)
    with contextlib.suppress(RedisError, OSError):  # of another Redis than the letter, perhaps
        changes = await reach.recall.shared(("changes before", died), read)
    return Told(**{name: getattr(found, name) for name in LetterDetail.__slots__}, changes=changes)


def _above(scene: Scene) -> Html:
    letter_id = scene.address.get("id")
    crumb = tag("span", link("dead-letters", "Dead letters"), " / ", class_="crumb")
    found = scene.found
    if scene.trouble or not isinstance(found, LetterDetail):
        said = f"The letter cannot be read: {scene.trouble}" if scene.trouble else (
            f"There is no dead letter {letter_id} in {scene.address.get('source')}."
            if found == "gone" else "Reading …"
        )  # fmt: skip
        title = tag(
            "div", crumb, tag("h1", safe_text(letter_id, 160), class_="mono"), class_="title"
        )
        return join(title, panel(tag("p", said, class_="empty"), label="Dead letter"))
    letter = found.letter
    look, css = look_of(letter.state)
    return join(
        tag(
            "div", crumb, tag("h1", safe_text(letter.name or "?", 80)),
            tag("span", icon(look.icon, 12), look.word, class_=f"state c-{css}"),
            tag("span", _actions(scene, found), class_="end"), class_="title",
        ),
        panel(
            tag("p", tag("b", safe_text(letter.error_type or letter.reason or "Error", 80)), " ",
                safe_text(letter.error.removeprefix(f"{letter.error_type}: "), 800),
                class_="body break", style="padding-top:12px"),
            _facts(scene, found),
            label="Dead letter",
        ),
        panel(_tabs(scene), _tab(scene, found), label="Details"),
        _before(found),
    )  # fmt: skip


def _before(found: LetterDetail) -> Html | None:
    title = "What changed in the hour before it died"
    made = changed(found.changes, title) if isinstance(found, Told) else None
    return panel(made, label=title) if made else None


def _actions(scene: Scene, found: LetterDetail) -> list[Html]:
    if not scene.may_act:
        return []
    letter, key = found.letter, f"{found.letter.source}/{found.letter.id}"
    is_open = letter.state is LetterState.NEW
    closed = letter.state in (LetterState.DISCARDED, LetterState.ARCHIVED)
    why = "" if is_open else f"only an open letter can be acted on; this one is {letter.state}"
    made = [
        button(
            "Retry", "retry", kind="primary once", mark=palette.ICONS["retry"], row=key, refused=why
        ),
        button("Discard", "discard", kind="quiet once", row=key, refused=why),
        button("Archive", "archive", kind="quiet once", row=key, refused=why),
    ]
    if closed:
        made.append(button("Take back", "undo-discard", kind="primary once", row=key))
    return made


def _facts(scene: Scene, found: LetterDetail) -> Html:
    letter, now = found.letter, scene.now
    size = found.arguments.size_bytes or None
    cause = link(href("dead-letters", cause=letter.fingerprint), tag("code", letter.fingerprint)) if (
        letter.fingerprint) else palette.UNKNOWN  # fmt: skip
    word = f"{letter.decision} {letter.decision_reason}".strip()
    return facts(
        [
            ("Id", tag("code", letter.id, class_="break")),
            (
                "Queue" if letter.kind == "job" else "Stream",
                link(
                    href("queue", name=letter.source)
                    if letter.kind == "job"
                    else href("streams", stream=letter.source),
                    safe_text(letter.source, 128),
                ),
            ),
            ("Died", moment_ms(letter.died_ms, now)),
            ("Attempts", palette.count(letter.attempts)),
            ("Why it died", figure(safe_text(palette.cause_of_death(letter.reason, letter.attempts), 120),
                                   why="its record does not say")),
            ("Cause", cause),
            ("Retried", {0: "never", 1: "once"}.get(letter.redrives, f"{letter.redrives} times")),
            ("Decision", tag("span", safe_text(word or "none yet", 300), class_="break")),
            ("Last change", tag("span", moment_ms(letter.changed_ms, now),
                                tag("span", f" by {letter.actor[:60]}", class_="soft") if letter.actor else None)),
            ("Worker", clipped(letter.worker, 120)),
            ("Payload", palette.size(size) if size else palette.UNKNOWN),
            ("Correlation", clipped(letter.correlation_id, 120, kind="mono")),
        ]
    )  # fmt: skip


def _current(scene: Scene) -> str:
    asked = scene.address.get("tab")
    return asked if asked in TABS else "error"


def _tabs(scene: Scene) -> Html:
    current = _current(scene)
    return tabs(
        [(scene.address.but(tab=name, whole="").href, word, "", name == current)
         for name, word in TABS.items()],
        label="Details",
    )  # fmt: skip


def _tab(scene: Scene, found: LetterDetail) -> Html:
    current, letter = _current(scene), found.letter
    whole = scene.address.get("whole") == "1"
    more = scene.address.but(tab=current, whole="1").href
    if current == "data":
        if letter.kind == "event":
            try:
                text = text_of(json.loads(found.raw))
            except (ValueError, RecursionError):
                text = found.raw
            shown: Any = block(text, whole=whole, more=more, label="Fields of the event")
        else:
            shown = arguments_block(found.arguments, whole=whole, more=more)
    elif current == "trail":
        shown = _trail(scene, found)
    else:
        shown = [
            block(letter.traceback or letter.error or "No error was told.", whole=whole, more=more,
                  label="Error"),
            _attempts(found),
        ]  # fmt: skip
    return tag("div", shown, class_="body", data_key=f"tab-{current}")


def _attempts(found: LetterDetail) -> Html | None:
    try:
        attempts = [a for a in json.loads(found.letter.history) if isinstance(a, dict)]
    except ValueError:
        return None
    made = []
    for attempt in attempts[-20:]:
        started, finished = attempt.get("started_ms"), attempt.get("finished_ms")
        took = (
            palette.duration((finished - started) / 1000)
            if isinstance(started, int) and isinstance(finished, int) else ""
        )  # fmt: skip
        made.append(
            tag(
                "div",
                tag("p", tag("b", f"Attempt {str(attempt.get('attempt', '?'))[:8]}"),
                    tag("span", f" {took}", class_="note")),
                tag("p", safe_text(attempt.get("error", ""), 600), class_="soft break"),
                class_="attempt",
            )
        )  # fmt: skip
    return tag("div", made) if made else None


def _trail(scene: Scene, found: LetterDetail) -> Html:
    letter = found.letter
    said = [
        tag("p", "Enqueued ", moment_ms(letter.enqueued_ms, scene.now), "."),
        tag(
            "p",
            f"Died after {letter.attempts} attempt{'s' * (letter.attempts != 1)} ",
            moment_ms(letter.died_ms, scene.now),
            ".",
        ),
    ]
    for number in range(1, min(letter.redrives, 50) + 1):
        job_id = f"{letter.id}~r{number}"
        where = href("job", queue=letter.source, id=job_id)
        name = tag("code", job_id)
        said.append(
            tag("p", f"Retry {number}: ", link(where, name) if letter.kind == "job" else name)
        )
    if letter.kind == "job":
        where = href("job", queue=letter.source, id=letter.id)
        said.insert(0, tag("p", "The job: ", link(where, tag("code", letter.id))))
    if letter.correlation_id:
        said.append(tag("p", "Correlation id ", tag("code", letter.correlation_id)))
    return tag("div", said)


PAGE = Page(above=_above, load=load, title=lambda address: f"Dead letter {address.get('id')[:24]}")

__all__ = ["PAGE", "load"]
