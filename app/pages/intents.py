"""What a viewer asks for, carried out through the actions, answered in one sentence.

The only part of the pages that calls ``app.actions``. Who asks is decided on the server; nothing in a
message from a browser is believed except what it asks for.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from app import actions, palette
from app.actions import ActionReport, Actor, Connections
from app.enqueue import JobRequest
from app.errors import ArqscopeError, InvalidRequest
from app.letters.filters import age_s
from app.pages import bulk, publication, submission
from app.pages.address import href
from app.pages.dialogs import QUESTIONS, Asked
from app.settings import Settings

#: characters of a cause's note, as the API has it
NOTE_CHARS: Final = 2_000
Offer = tuple[str, str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the viewer; *offers* are (label, intent, data) they may press."""

    text: str
    ok: bool = True
    offers: tuple[Offer, ...] = ()
    links: tuple[tuple[str, str], ...] = ()  #: (label, address)
    lasts_s: float = 8.0
    data: Mapping[str, str] = field(default_factory=dict)
    keeps_dialog: bool = False  #: the answer was not enough: the dialog stays
    go: str = ""  #: the address to go to


@dataclass(frozen=True, slots=True)
class Desk:
    """Carries out intents for one viewer."""

    connections: Connections
    settings: Settings
    actor_of: Callable[[], Actor]  #: asked at every intent: a login may have ended since

    @property
    def actor(self) -> Actor:
        """Who acts now."""
        return self.actor_of()

    @property
    def refusal(self) -> str:
        """Why this viewer may not act; empty when they may."""
        return actions.may_act(self.settings, self.actor)

    async def perform(self, intent: str, data: Mapping[str, Any]) -> Notice:
        """Do what *intent* asks for; a refusal is a notice too."""
        try:
            if intent not in _DEEDS:
                return Notice(f"Not done: {intent[:40]!r} is not known here.", ok=False)
            to = (self.connections, self.settings, self.actor)
            said = {k: str(v)[: NOTE_CHARS if k == "note" else 400] for k, v in data.items()}
            return await _DEEDS[intent](to, said)
        except ArqscopeError as error:
            return Notice(_refused(error), ok=False)

    async def perform_each(self, intent: str, rows: list[str]) -> Notice:
        """Do *intent* to each of *rows* (``queue/id``); says how many it worked for."""
        done, refusals = 0, []
        for row in rows:
            notice = await self.perform(intent, {"row": row})
            done += notice.ok
            if not notice.ok:
                refusals.append(notice.text)
        word = _DONE.get(intent, "Done")
        text = f"{word} {done} of {len(rows)}." + (f" {refusals[0]}" if refusals else "")
        return Notice(text, ok=not refusals)

    async def confirm(self, asked: Asked, fields: Mapping[str, Any]) -> Notice:
        """Do what a dialog asked about, with what was filled in."""
        if asked.what == "submit":
            return await self._submit(fields)
        if asked.what in bulk.KINDS:
            return await self._start(asked, fields)
        if asked.what in publication.FORMS:
            return await self._publish(asked, fields)
        question = QUESTIONS.get(asked.what)
        if question is None:
            return Notice("Not done: that question is not known here.", ok=False)
        if question.type_name and fields.get("typed") != asked.get(question.type_name):
            return Notice("Not done: the name typed is another one.", ok=False, keeps_dialog=True)
        if asked.what.endswith("-chosen"):
            chosen = [row for row in asked.get("chosen").split("\n") if row]
            return await self.perform_each(asked.what.removesuffix("-chosen"), chosen)
        notice = await self.perform(asked.what, {**asked.data, **fields})
        is_kept = (question.asks_delay or question.asks_note) and not notice.ok
        return replace(notice, keeps_dialog=is_kept)

    async def count(self, asked: Asked) -> Asked:
        """Count what a group holds; a refusal is said in its dialog."""
        try:
            to = (self.connections, self.settings, self.actor)
            matched = await bulk.count(*to, asked.what, asked.data, list(asked.sources))
        except ArqscopeError as error:
            return replace(asked, said=Notice(str(error), ok=False))
        return replace(asked, matched=matched)

    async def _start(self, asked: Asked, fields: Mapping[str, Any]) -> Notice:
        """Start a group's operations, one per queue."""
        to = (self.connections, self.settings, self.actor)
        try:
            ids = await bulk.start(*to, asked.what, asked.data, list(asked.sources), fields)
        except ArqscopeError as error:
            return Notice(_refused(error), ok=False, keeps_dialog=True)
        word = "An operation is" if len(ids) == 1 else f"{len(ids)} operations are"
        return Notice(f"{word} under way.", links=(("Watch it", "operations"),), go="operations")

    async def _publish(self, asked: Asked, fields: Mapping[str, Any]) -> Notice:
        """Publish what a form asks for; a wrong field, or a count, keeps the dialog open."""
        to = (self.connections, self.settings, self.actor)
        try:
            told = await publication.send(to, asked.what, asked.data, fields)
        except ArqscopeError as error:
            text, wrong = submission.refused(error)
            return Notice(text, ok=False, keeps_dialog=True, data={"field": wrong})
        links = (told.link,) if told.link else ()
        return Notice(told.text, links=links, keeps_dialog=told.stays)

    async def _submit(self, fields: Mapping[str, Any]) -> Notice:
        """Submit the job a form asks for; a wrong field keeps the dialog open."""
        try:
            queue, request = submission.request_of(fields)
            done = await actions.submit_jobs(
                self.connections, self.settings, self.actor, queue, [request]
            )
        except ArqscopeError as error:
            text, wrong = submission.refused(error)
            return Notice(text, ok=False, keeps_dialog=True, data={"field": wrong})
        where = href("job", queue=queue, id=done[0].id)
        return Notice(submission.accepted(queue, request, done[0]), links=(("Watch it", where),))


To = tuple[Connections, Settings, Actor]
Data = Mapping[str, str]


def _refused(error: ArqscopeError) -> str:
    hint = getattr(error, "hint", None)
    return f"Not done: {error}" + (f" ({hint})" if hint else "")


def _row(data: Data) -> tuple[str, str]:
    source, _, name = data.get("row", "").partition("/")
    return source, name


def _said(
    report: ActionReport,
    text: str,
    offers: tuple[Offer, ...] = (),
    links: tuple[tuple[str, str], ...] = (),
) -> Notice:
    if report.changed:
        return Notice(text, offers=offers, links=links)
    return Notice(report.message or "Nothing changed: it was so already.", links=links)


async def _pause(to: To, data: Data) -> Notice:
    queue = data.get("queue", "")
    report = await actions.pause_queue(*to, queue)
    offer = (("Resume", "resume", {"queue": queue}),)
    return _said(report, f"Paused {queue}: running jobs end, no further one starts.", offer)


async def _resume(to: To, data: Data) -> Notice:
    queue = data.get("queue", "")
    return _said(await actions.resume_queue(*to, queue), f"{queue} takes jobs again.")


async def _abort(to: To, data: Data) -> Notice:
    queue, job_id = _row(data)
    report = await actions.abort_job(*to, queue, job_id)
    return _said(report, f"Asked the worker to stop {job_id}.")


async def _cancel(to: To, data: Data) -> Notice:
    queue, job_id = _row(data)
    where = href("dead-letters", source=queue, state="closed")
    return _said(await actions.cancel_job(*to, queue, job_id), f"{job_id} was taken off {queue}.",
                 links=(("What is kept of it", where),))  # fmt: skip


async def _promote(to: To, data: Data) -> Notice:
    queue, job_id = _row(data)
    return _said(await actions.promote_job(*to, queue, job_id), f"{job_id} is due now.")


async def _reschedule(to: To, data: Data) -> Notice:
    queue, job_id = _row(data)
    delay_s = age_s("delay", data.get("delay", "").strip())
    if delay_s is None:
        raise InvalidRequest("there is no delay", field="delay", hint="for example 15m")
    report = await actions.reschedule_job(*to, queue, job_id, delay_s)
    return _said(report, f"{job_id} is due in {palette.duration(delay_s)}.")


async def _retry(to: To, data: Data) -> Notice:
    source, letter_id = _row(data)
    report = await actions.retry_letter(*to, source, letter_id)
    job_id = str(report.detail.get("id", ""))
    is_job = job_id and source != to[1].stream_name
    links = (("Watch it", href("job", queue=source, id=job_id)),) if is_job else ()
    return _said(report, report.message or f"Retrying {letter_id}.", links=links)


async def _discard(to: To, data: Data) -> Notice:
    source, letter_id = _row(data)
    report = await actions.discard_letter(*to, source, letter_id)
    offer = (("Undo", "undo-discard", {"row": f"{source}/{letter_id}"}),)
    return _said(
        report, f"Discarded {letter_id}. It is kept and can be taken back for 24 h.", offer
    )


async def _archive(to: To, data: Data) -> Notice:
    source, letter_id = _row(data)
    report = await actions.archive_letter(*to, source, letter_id)
    offer = (("Undo", "undo-discard", {"row": f"{source}/{letter_id}"}),)
    return _said(report, f"Archived {letter_id}. It can be taken back for 24 h.", offer)


async def _undo(to: To, data: Data) -> Notice:
    source, letter_id = _row(data)
    return _said(await actions.undo_discard(*to, source, letter_id), f"{letter_id} is open again.")


async def _quiet(to: To, data: Data) -> Notice:
    queue, worker = data.get("queue", ""), data.get("worker", "")
    report = await actions.control_workers(*to, queue, "quiet", worker)
    offer = (("Let it go on", "wake", {"queue": queue, "worker": worker}),)
    return _said(report, f"{worker} takes no further job; running ones end.", offer)


async def _wake(to: To, data: Data) -> Notice:
    queue, worker = data.get("queue", ""), data.get("worker", "")
    report = await actions.control_workers(*to, queue, "resume", worker)
    return _said(report, f"{worker} takes jobs again.")


async def _stop(to: To, data: Data) -> Notice:
    queue, worker = data.get("queue", ""), data.get("worker", "")
    report = await actions.control_workers(*to, queue, "stop", worker)
    return _said(report, f"{worker} ends its jobs and exits.")


async def _concurrency(to: To, data: Data) -> Notice:
    queue, text = data.get("queue", ""), data.get("value", "").strip()
    if text and not text.isdecimal():
        raise InvalidRequest(f"{text[:20]!r} is not a number of slots", field="slots")
    report = await actions.set_concurrency(*to, queue, int(text) if text else None)
    return Notice(report.message)


async def _clean(to: To, data: Data) -> Notice:
    report = await actions.clean_queue(*to, data.get("queue", ""), data.get("status", ""))
    more = " There are more: ask again." if report.detail.get("more") else ""
    return Notice(report.message + "." + more)


async def _steer(to: To, data: Data) -> Notice:
    name, operation = data.get("verb", ""), data.get("operation", "")
    steps = {
        "pause": actions.pause_operation,
        "resume": actions.resume_operation,
        "abort": actions.abort_operation,
    }
    if name not in steps:
        return Notice(f"Not done: {name[:20]!r} is not known here.", ok=False)
    report = await steps[name](*to, operation)
    return Notice(report.message + ".")


async def _abort_operation(to: To, data: Data) -> Notice:
    return await _steer(to, {**data, "verb": "abort"})


async def _run_schedule(to: To, data: Data) -> Notice:
    queue, name = data.get("queue", ""), data.get("schedule", "")
    (done,) = await actions.submit_jobs(*to, queue, [JobRequest(name=name)])
    links = (("Watch it", href("job", queue=queue, id=done.id)),)
    return Notice(f"{name} was put on {queue}; its next tick stays as it is.", links=links)


async def _cause(to: To, data: Data) -> Notice:
    report = await actions.change_cause(*to, data.get("cause", ""), state=data.get("state"))
    return Notice(report.message + ".")


async def _note(to: To, data: Data) -> Notice:
    owner, note = data.get("owner", ""), data.get("note", "")
    report = await actions.change_cause(*to, data.get("cause", ""), owner=owner, note=note)
    return Notice(report.message + ".")


async def _acknowledge(to: To, data: Data) -> Notice:
    return Notice((await actions.acknowledge_alert(*to, data.get("alert", ""))).message + ".")


async def _silence(to: To, data: Data) -> Notice:
    return Notice((await actions.silence_alert(*to, data.get("alert", ""), 3600)).message + ".")


_DEEDS: Final[Mapping[str, Callable[[To, Data], Awaitable[Notice]]]] = {
    "pause": _pause,
    "resume": _resume,
    "abort": _abort,
    "cancel": _cancel,
    "promote": _promote,
    "reschedule": _reschedule,
    "retry": _retry,
    "discard": _discard,
    "archive": _archive,
    "undo-discard": _undo,
    "quiet": _quiet,
    "wake": _wake,
    "stop": _stop,
    "concurrency": _concurrency,
    "clean": _clean,
    "run-schedule": _run_schedule,
    "steer-operation": _steer,
    "abort-operation": _abort_operation,
    "cause-state": _cause,
    "cause-note": _note,
    "acknowledge": _acknowledge,
    "silence": _silence,
}
_DONE: Final = {"retry": "Retrying", "discard": "Discarded", "archive": "Archived",
                "cancel": "Cancelled", "promote": "Made due"}  # fmt: skip
#: intents a control may send directly; the others are asked about first (``dialogs``)
ACTS: Final = frozenset(
    {name for name in _DEEDS if name not in QUESTIONS}
    | {f"{name}-chosen" for name in ("retry", "discard", "archive", "promote")}
)

__all__ = ["ACTS", "Desk", "Notice"]
