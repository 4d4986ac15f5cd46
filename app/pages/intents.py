"""What a viewer asks for, carried out through the actions, answered in one sentence.

The only part of the pages that calls ``app.actions``. Who asks is decided on the server; nothing in a
message from a browser is believed except what it asks for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app import actions
from app.actions import ActionReport, Actor, Connections
from app.errors import ArqscopeError
from app.pages import submission
from app.pages.submission import Answer
from app.settings import Settings

#: intents that change something, and so go through an action
ACTS: Final = frozenset({"retry", "discard", "undo-discard", "pause", "resume", "abort"})


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence for the viewer; *offers* are (label, intent, data) they may press."""

    text: str
    ok: bool = True
    offers: tuple[tuple[str, str, Mapping[str, str]], ...] = ()
    lasts_s: float = 8.0
    data: Mapping[str, str] = field(default_factory=dict)


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
            return await self._perform(intent, data)
        except ArqscopeError as error:
            return Notice(f"Not done: {error}", ok=False)

    async def _perform(self, intent: str, data: Mapping[str, Any]) -> Notice:
        to = (self.connections, self.settings, self.actor)
        if intent in ("pause", "resume"):
            queue = str(data.get("queue", ""))
            if intent == "pause":
                report = await actions.pause_queue(*to, queue)
                offer = (("Resume", "resume", {"queue": queue}),)
                return _said(
                    report, f"Paused {queue}: running jobs end, no further one starts.", offer
                )
            return _said(await actions.resume_queue(*to, queue), f"{queue} takes jobs again.")
        if intent == "abort":
            queue, _, job_id = str(data.get("job", "")).partition("/")
            report = await actions.abort_job(*to, queue, job_id)
            return _said(report, f"Asked the worker to stop {job_id}.")
        source, _, letter_id = str(data.get("letter", "")).partition("/")
        if intent == "retry":
            report = await actions.retry_letter(*to, source, letter_id)
            return _said(report, report.message or f"Retrying {letter_id}.")
        if intent == "discard":
            report = await actions.discard_letter(*to, source, letter_id)
            offer = (("Undo", "undo-discard", {"letter": f"{source}/{letter_id}"}),)
            return _said(report, f"Discarded {letter_id}. It is kept and can be taken back for 24 h.",
                         offer)  # fmt: skip
        if intent == "undo-discard":
            report = await actions.undo_discard(*to, source, letter_id)
            return _said(report, f"{letter_id} is open again.")
        return Notice(f"Not done: {intent[:40]!r} is not known here.", ok=False)

    async def perform_each(self, intent: str, letters: list[str]) -> Notice:
        """Do *intent* to each of *letters*; says how many it worked for."""
        done, refusals = 0, []
        for letter in letters:
            notice = await self.perform(intent, {"letter": letter})
            done += notice.ok
            if not notice.ok:
                refusals.append(notice.text)
        word = {"retry": "Retrying", "discard": "Discarded"}[intent]
        text = f"{word} {done} of {len(letters)}." + (f" {refusals[0]}" if refusals else "")
        return Notice(text, ok=not refusals)

    async def submit(self, fields: Mapping[str, Any]) -> Answer:
        """Submit the job a form asks for."""
        try:
            queue, request = submission.request_of(fields)
            done = await actions.submit_jobs(
                self.connections, self.settings, self.actor, queue, [request]
            )
            return submission.accepted(queue, request, done[0])
        except ArqscopeError as error:
            return submission.refused(error)


def _said(
    report: ActionReport,
    text: str,
    offers: tuple[tuple[str, str, Mapping[str, str]], ...] = (),
) -> Notice:
    if report.changed:
        return Notice(text, offers=offers)
    return Notice(report.message or "Nothing changed: it was so already.")
