"""Dialogs: what is asked before something is done that cannot be taken back, named by its effect."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app import palette
from app.pages import bulk, cause_periods, publication, submission
from app.pages.address import PLACES, Address
from app.pages.markup import Html, button, icon, join, records, tag
from app.pages.scene import Scene

MAX_FIELD: Final = 300


@dataclass(frozen=True)
class Asked:
    """A question somebody has open: what about, and what was answered so far."""

    what: str
    data: Mapping[str, str] = field(default_factory=dict)
    said: Any = None  #: the Notice of an answer that was not enough
    fields: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()  #: a group's queues and streams
    matched: bulk.Matched | None = None  #: what a group holds, once it was counted

    @classmethod
    def of(cls, data: Mapping[str, Any], scene: Scene) -> "Asked | None":
        """The question a control asks for; None when there is none of that name."""
        what = str(data.get("what", ""))[:40]
        kept = {str(k)[:40]: str(v)[:MAX_FIELD] for k, v in data.items() if isinstance(v, str)}
        if what not in (*QUESTIONS, *bulk.KINDS, *publication.FORMS, "submit") or not scene.may_act:
            return None
        if what in bulk.KINDS:
            start = cause_periods.since(Address("dead-letters", kept), scene.now)
            kept |= {} if start is None else {"since": f"{start:%Y-%m-%dT%H:%M:%SZ}"}
            return cls(what, kept, sources=tuple(bulk.sources_of(kept, scene)))
        if what.endswith("-chosen"):
            kept["count"] = str(len(scene.chosen))
            kept["chosen"] = "\n".join(sorted(scene.chosen))
        return cls(what, kept)

    def get(self, name: str) -> str:
        """One thing the control said."""
        return self.data.get(name, "")


@dataclass(frozen=True, slots=True)
class Question:
    """Title, effect and button of a confirmation; ``{x}`` is what the control said as *x*."""

    title: str
    effect: str
    does: str
    danger: bool = False
    asks_delay: bool = False
    asks_note: bool = False  #: who looks after a cause, and what is said about it
    type_name: str = ""  #: what has to be typed: the name of this value


QUESTIONS: Final[Mapping[str, Question]] = {
    "abort": Question(
        "Abort this job?",
        "The worker stops {id}; the job is not retried. What it did so far stays done.",
        "Abort job", danger=True,
    ),
    "reschedule": Question(
        "Make this job due at another time",
        "{id} runs no sooner than that. What it carries is kept as long as it takes.",
        "Reschedule", asks_delay=True,
    ),
    "cancel": Question(
        "Take this job off its queue?",
        "{id} will not run. What it carried is kept: for 24 h it can be opened again among the closed "
        "dead letters, and retried.",
        "Cancel job", danger=True,
    ),
    "cancel-chosen": Question(
        "Take {count} jobs off their queue?",
        "They will not run. What they carried is kept: for 24 h they can be opened again among the "
        "closed dead letters, and retried.",
        "Cancel {count} jobs", danger=True,
    ),
    "cause-note": Question(
        "Owner and note of this cause",
        "Both stay with the cause, and everybody who opens it sees them.",
        "Save", asks_note=True,
    ),
    "stop": Question(
        "Stop this worker?",
        "{worker} takes no further job, gives its running jobs time to end, then exits. What starts "
        "it (systemd, Kubernetes, arqscope up) may start it again.",
        "Stop worker", danger=True,
    ),
    "abort-operation": Question(
        "Abort this operation?",
        "{operation} ends now. What it did stays done; the rest is left as it is.",
        "Abort operation", danger=True,
    ),
    "clean": Question(
        "Clean {queue}: remove all {status} jobs",
        "At most 1,000 at a time, oldest first. Removed waiting and deferred jobs do not run; failed "
        "ones are discarded and can be taken back for 24 h.",
        "Remove them", danger=True, type_name="queue",
    ),
}  # fmt: skip


def dialog(asked: Asked, scene: Scene) -> Html:
    """The dialog that asks *asked*."""
    if asked.what == "help":
        return _help()
    if asked.what == "submit":
        return _submit(asked, scene)
    if asked.what in bulk.KINDS:
        return _group(asked, scene)
    if asked.what in publication.FORMS:
        return _publish(asked)
    question = QUESTIONS[asked.what]
    values = {name: value[:120] for name, value in asked.data.items()}
    fields: list[object] = [tag("p", _filled(question.effect, values), class_="effect break")]
    if question.type_name:
        name = asked.get(question.type_name)
        fields.append(
            tag("label", tag("span", "Type ", tag("b", name), " to go on"),
                tag("input", name="typed", autocomplete="off", spellcheck="false", required=True))
        )  # fmt: skip
    if question.asks_note:
        fields.append(_note_fields(asked, scene))
    if question.asks_delay:
        wrong = asked.said is not None and not asked.said.ok
        fields.append(
            tag("label", "Due in",
                tag("input", name="delay", value=str(asked.fields.get("delay", "15m"))[:40], required=True,
                    placeholder="90s, 15m, 2h, 3d", autocomplete="off", spellcheck="false",
                    aria_invalid="true" if wrong else None))
        )  # fmt: skip
    return framed(
        asked,
        _filled(question.title, values),
        fields,
        _filled(question.does, values),
        danger=question.danger,
    )


def _note_fields(asked: Asked, scene: Scene) -> Html:
    """Owner and note as they are now, or as they were typed before it was refused."""
    known = scene.snapshot.causes
    now = next(iter(records(known[known["fingerprint"] == asked.get("cause")])), {})
    given = {name: str(asked.fields.get(name, now.get(name, ""))) for name in ("owner", "note")}
    return join(
        tag("label", tag("span", "Owner"),
            tag("input", name="owner", value=given["owner"], maxlength="100", autocomplete="off")),
        tag("label", tag("span", "Note"),
            tag("textarea", given["note"], name="note", maxlength="2000", rows="4")),
    )  # fmt: skip


def framed(
    asked: Asked,
    title: str,
    fields: object,
    does: str,
    *,
    danger: bool = False,
    wide: object = None,
) -> Html:
    """A dialog's frame: title, form, what went wrong, and two buttons."""
    problem = None
    if asked.said is not None and asked.said.ok:
        problem = tag("p", asked.said.text, class_="said", role="status")
    elif asked.said is not None:
        problem = tag("p", icon(palette.ICONS["warn"], 13), " ", asked.said.text,
                      class_="said wrong", role="alert")  # fmt: skip
    kind = "danger" if danger else "primary"
    return tag(
        "dialog",
        tag("header", tag("h2", title, id="asked"), class_="head"),
        tag(
            "form",
            fields,
            wide,
            problem,
            tag(
                "div",
                button("Cancel", "close", kind="plain"),
                tag("button", does, type="submit", class_=f"button once {kind}"),
                class_="foot",
            ),
            class_="form",
            data_intent="confirm",
        ),
        aria_labelledby="asked",
        data_key=f"dialog-{asked.what}",
    )


def _group(asked: Asked, scene: Scene) -> Html:
    verb = bulk.KINDS[asked.what][1]
    count = f"{palette.count(asked.matched.total)} " if asked.matched is not None else ""
    word = "letter" if asked.matched is not None and asked.matched.total == 1 else "letters"
    cause, known = asked.data.get("cause"), scene.snapshot.causes
    named = records(known[known["fingerprint"] == cause]) if cause else []
    said = str(named[0]["error"]) if named else ""
    fields = bulk.fields_of(asked.what, asked.data, asked.matched, asked.fields, said)
    return framed(
        asked,
        f"{verb} a group of dead letters",
        fields,
        f"{verb} {count}{word}",
        danger=asked.what != "retry-group",
    )


def _publish(asked: Asked) -> Html:
    title, does = publication.FORMS[asked.what]
    wrong = asked.said.data.get("field", "") if asked.said is not None else ""
    fields = publication.fields_of(asked.what, {**asked.data, **asked.fields}, wrong)
    return framed(asked, _filled(title, asked.data), fields, does)


def _submit(asked: Asked, scene: Scene) -> Html:
    known = [str(name) for name in scene.snapshot.queues["queue"]]
    queues = list(dict.fromkeys((*known, *scene.settings.queue_names)))
    wrong = asked.said.data.get("field", "") if asked.said is not None else ""
    given = {"queue": asked.get("queue"), **asked.fields}
    fields = submission.fields_of(queues, scene.snapshot, given, wrong)
    return framed(asked, "Submit a job", fields, "Submit job")


def _filled(text: str, values: Mapping[str, str]) -> str:
    """*text* with its ``{name}`` parts filled in; nothing else of a format string works."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def _help() -> Html:
    goes = [(("g", place.key), place.title) for place in PLACES.values() if place.key]
    lines: list[tuple[tuple[str, ...], str]] = [
        (("/",), "Search or filter this page"),
        (("r",), "Refresh now"),
        (("?",), "This help"),
        (("Esc",), "Close"),
        *goes,
    ]
    listed = [
        [tag("span", [tag("kbd", key) for key in pressed]), tag("span", word)]
        for pressed, word in lines
    ]
    return tag(
        "dialog",
        tag("header", tag("h2", "Help and keyboard", id="asked"), class_="head"),
        tag(
            "div",
            tag("div", listed, class_="keys"),
            tag("p", "Every number is a link to what it counts. Every filter is in the address: "
                     "copy it to show somebody what you see. Drag over a chart to zoom all time axes, "
                     "double-click to go back. A dash is a number nobody could read: its tooltip says "
                     "why.", class_="effect", style="margin:14px 0"),
            tag("div", tag("a", "HTTP API", href="../docs", class_="button", target="_blank"), " ",
                button("Close", "close", kind="primary")),
            class_="body",
        ),
        aria_labelledby="asked",
        data_key="dialog-help",
    )  # fmt: skip


__all__ = ["QUESTIONS", "Asked", "Question", "dialog", "framed"]
