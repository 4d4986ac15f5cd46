"""A life up to a moment: one job and one dead letter as of then, by records that carry their times. Pure."""

from dataclasses import dataclass
from typing import Any, Final

from app import audit, deeds, palette
from app.annals.hindsight import JobThen, LetterThen, job_then, letter_then
from app.audit import AuditLine
from app.pages import one_job, one_letter, travel
from app.pages.address import Address, href
from app.pages.letters import look_of
from app.pages.markup import (
    Html,
    clipped,
    facts,
    figure,
    heading,
    icon,
    join,
    link,
    moment_ms,
    panel,
    row,
    safe_text,
    state,
    table,
    tag,
)
from app.pages.scene import Reach, Scene
from app.pages.values import arguments_block, block, text_of
from app.palette import JOB_LOOK, OUTCOME_LOOK
from app.reader import JobDetail, LetterDetail
from app.records import JobState, LetterState, Outcome

_NOT_STORED: Final = "not stored"


@dataclass(frozen=True, slots=True)
class Found:
    """What is kept of it now, and what operators did to it up to then."""

    detail: JobDetail | LetterDetail | str
    lines: list[AuditLine]
    is_cut: bool = False  #: whether there are more lines than were looked at


async def load_job(reach: Reach, address: Address) -> Any:
    """The job as it is; of a moment of the past also what operators did to it until then."""
    then = travel.then_asked(address)
    found = await one_job.load(reach, address)
    if then is None:
        return found
    target = found.queue if isinstance(found, JobDetail) else address.get("queue")
    told = await audit.about(reach.connections.queue, {f"{target}/{address.get('id')}"}, int(then))
    return Found(found, *told)


async def load_letter(reach: Reach, address: Address) -> Any:
    """The letter as it is; of a moment of the past also what operators did to it until then."""
    then = travel.then_asked(address)
    found = await one_letter.load(reach, address)
    if then is None:
        return found
    target = f"{address.get('source')}/{address.get('id')}"
    return Found(found, *await audit.about(reach.connections.queue, {target}, int(then)))


# -- one job -----------------------------------------------------------------------------------------


def job(scene: Scene) -> Html:
    """One job as of the moment asked for."""
    found, job_id = scene.found, scene.address.get("id")
    queue = scene.address.get("queue")
    crumb = tag("span", link(href("jobs", queue=queue), "Jobs"), " / ", class_="crumb")
    if (
        scene.trouble
        or not isinstance(found, Found)
        or not isinstance(found.detail, JobDetail)
        or scene.then is None
    ):
        said = _absent(
            scene,
            "job",
            "Nobody knows a job of this id now: its records are gone, so nothing is known of then.",
        )
        title = tag("div", crumb, tag("h1", safe_text(job_id, 160), class_="mono"), class_="title")
        return join(title, panel(tag("p", said, class_="empty"), label="Job"))
    detail, then_ms = found.detail, scene.then.timestamp() * 1000
    then = job_then(detail, then_ms)
    mark = _unknown(then.why)
    if isinstance(then.state, JobState):
        mark = state(JOB_LOOK[then.state], then.state.value, title=then.why)
    title = tag(
        "div", crumb, tag("h1", safe_text(detail.function or "?", 80)), mark, class_="title"
    )
    if then.exists is False:
        when = tag(
            "p", "It did not exist yet. Enqueued ", _clock(detail.enqueued_ms), ".", class_="empty"
        )
        return join(title, panel(when, label="Life of the job"))
    return join(
        title,
        panel(
            heading("Life of the job", f"up to {scene.then:%Y-%m-%d %H:%M:%S} UTC", then.why),
            _job_facts(detail, then, then_ms),
            label="Life of the job",
        ),
        _attempts(scene, then),
        _acts(scene, found),
        panel(
            heading("Data", "a job's arguments do not change while it lives"),
            tag("div", arguments_block(detail.arguments, whole=False, more=""), class_="body"),
            label="Data",
        ) if detail.arguments.function or detail.arguments.size_bytes else None,
        _result(detail, then),
    )  # fmt: skip


def _job_facts(detail: JobDetail, then: JobThen, then_ms: float) -> Html:
    ran = then.running_ms and palette.duration((then_ms - then.running_ms) / 1000)
    letter = detail.letter
    where = href("dead-letter", source=detail.queue, id=letter.id) if letter else ""
    dead: object = "none"
    if letter is not None:
        dead = link(where, tag("code", letter.id)) if then.has_letter else "none yet"
        if letter.redrives and not then.has_letter:
            dead = _unknown("its record tells of its last death only, which came later")
    return facts(
        [
            ("Id", tag("code", detail.id, class_="break")),
            ("Queue", link(href("queue", name=detail.queue), detail.queue) if detail.queue else palette.UNKNOWN),
            ("Enqueued", _clock(detail.enqueued_ms)),
            ("Due", _due(then)),
            ("Attempt", figure(str(then.attempt) if then.attempt else "none", why="no attempt had begun")),
            ("Running for", figure(ran or palette.UNKNOWN, why="no attempt was under way")),
            ("Worker", clipped(then.worker, 120)),
            ("Dead letter", dead),
            ("Progress", _unknown("progress is kept as it is now, not as it was")),
            ("Correlation", clipped(detail.correlation_id, 120, kind="mono")),
        ]
    )  # fmt: skip


def _due(then: JobThen) -> Html:
    if then.state in (
        JobState.COMPLETE,
        JobState.DEAD,
        JobState.ABORTED,
        JobState.FAILED,
        JobState.RUNNING,
    ):
        return figure(palette.UNKNOWN, why="nothing more was due")
    return _clock(then.due_ms) if then.due_ms else _unknown("the due time of then is not stored")


def _attempts(scene: Scene, then: JobThen) -> Html:
    made = []
    if then.state is JobState.RUNNING:
        look = JOB_LOOK[JobState.RUNNING]
        made.append(
            row("under-way", (state(look, "running"), ""), (str(then.attempt), "num"), ("", "num opt"),
                (clipped(then.worker, 120, kind="soft"), "opt"), ("", "wide"),
                (tag("span", "began ", moment_ms(then.running_ms, scene.now)), "soft"))
        )  # fmt: skip
    for run in then.ended:
        look = OUTCOME_LOOK[run.outcome]
        css = {Outcome.COMPLETE: "complete", Outcome.DEAD: "dead", Outcome.RETRY: "retrying",
               Outcome.ABORTED: "aborted"}.get(run.outcome, "unknown")  # fmt: skip
        made.append(
            row(f"{run.attempt}-{run.finished_ms}", (state(look, css), ""), (str(run.attempt), "num"),
                (palette.duration(run.runtime_s), "num opt"), (clipped(run.worker, 120, kind="soft"), "opt"),
                (clipped(run.error, 300, kind="soft") if run.error else "", "wide"),
                (moment_ms(run.finished_ms, scene.now), "soft"))
        )  # fmt: skip
    columns = [
        ("Outcome", ""),
        ("Attempt", "num"),
        ("Took", "num opt"),
        ("Worker", "opt"),
        ("Error", ""),
        ("When", ""),
    ]
    return panel(
        heading("Attempts", "those reported among the last 2,000 runs of its queue"),
        table(columns, made, caption="Attempts up to then, newest first",
              empty="No attempt that is reported had begun."),
        label="Attempts",
    )  # fmt: skip


def _result(detail: JobDetail, then: JobThen) -> Html:
    if then.state is not JobState.COMPLETE:
        said = "It had no result." if then.state is not None else (
            "Whether there was a result is not stored.")  # fmt: skip
        return panel(heading("Result"), tag("p", said, class_="empty"), label="Result")
    if detail.result_note or detail.result is None:
        note = detail.result_note or "it returned nothing, or its result has expired since"
        return panel(
            heading("Result"), tag("p", f"Not shown: {note}.", class_="empty"), label="Result"
        )
    shown = block(text_of(detail.result), whole=False, more="", label="Result")
    return panel(
        heading("Result", "as it is kept now"), tag("div", shown, class_="body"), label="Result"
    )


# -- one letter --------------------------------------------------------------------------------------


def letter(scene: Scene) -> Html:
    """One dead letter as of the moment asked for."""
    found, letter_id = scene.found, scene.address.get("id")
    crumb = tag("span", link("dead-letters", "Dead letters"), " / ", class_="crumb")
    if (
        scene.trouble
        or not isinstance(found, Found)
        or not isinstance(found.detail, LetterDetail)
        or scene.then is None
    ):
        said = _absent(
            scene,
            "letter",
            "There is no letter of this id now: whether there was one is not stored.",
        )
        title = tag(
            "div", crumb, tag("h1", safe_text(letter_id, 160), class_="mono"), class_="title"
        )
        return join(title, panel(tag("p", said, class_="empty"), label="Dead letter"))
    detail, then_ms = found.detail, scene.then.timestamp() * 1000
    then = letter_then(detail, found.lines, then_ms)
    record = detail.letter
    title = tag(
        "div",
        crumb,
        tag("h1", safe_text(record.name or "?", 80)),
        _letter_mark(then),
        class_="title",
    )
    if then.exists is not True:
        said = (
            "It did not exist yet" if then.exists is False else "Whether it existed is not stored"
        )
        when = tag(
            "p", f"{said}: {then.why}. Last death ", _clock(record.died_ms), ".", class_="empty"
        )
        return join(title, panel(when, label="Dead letter"))
    return join(
        title,
        panel(
            heading("Dead letter", f"up to {scene.then:%Y-%m-%d %H:%M:%S} UTC", then.why),
            _error(record, then_ms),
            _letter_facts(detail, then, then_ms),
            label="Dead letter",
        ),
        _retries(scene, detail, then_ms),
        _acts(scene, found),
    )  # fmt: skip


def _letter_mark(then: LetterThen) -> Html:
    if not isinstance(then.state, LetterState):
        return _unknown(then.why)
    look, css = look_of(then.state)
    return tag("span", icon(look.icon, 12), look.word, class_=f"state c-{css}", title=then.why)


def _error(record: Any, then_ms: float) -> Html:
    if record.died_ms > then_ms:
        return tag("p", "The error of then was overwritten by a later death.", class_="empty")
    return tag("p", tag("b", safe_text(record.error_type or record.reason or "Error", 80)), " ",
               safe_text(record.error.removeprefix(f"{record.error_type}: "), 800),
               class_="body break")  # fmt: skip


def _letter_facts(detail: LetterDetail, then: LetterThen, then_ms: float) -> Html:
    record = detail.letter
    cause = link(href("dead-letters", cause=record.fingerprint), tag("code", record.fingerprint)) if (
        record.fingerprint) else palette.UNKNOWN  # fmt: skip
    died: object = _clock(record.died_ms)
    if record.died_ms > then_ms:
        died = _unknown("its record tells of its last death only, which came later")
    word = f"{record.decision} {record.decision_reason}".strip() or "none yet"
    decision: object = tag("span", safe_text(word, 300), class_="break")
    if not then.is_as_now:
        decision = _unknown("the decision is kept as it is now, not as it was")
    return facts(
        [
            ("Id", tag("code", record.id, class_="break")),
            ("Queue" if record.kind == "job" else "Stream", safe_text(record.source, 128)),
            ("Died", died),
            ("Cause", cause),
            ("Retried", f"{then.retries} times" if then.retries else "never"),
            ("Decision", decision),
            ("Enqueued", _clock(record.enqueued_ms)),
            ("Correlation", clipped(record.correlation_id, 120, kind="mono")),
        ]
    )  # fmt: skip


def _retries(scene: Scene, detail: LetterDetail, then_ms: float) -> Html:
    made = []
    for entry in reversed(detail.lineage):
        if float(entry.get("at_ms") or 0) > then_ms:
            continue
        job_id = f"{detail.letter.id}~r{entry['n']}"
        name: object = tag("code", job_id)
        if detail.letter.kind == "job":
            name = link(href("job", queue=detail.letter.source, id=job_id), name)
        made.append(
            row(str(entry["n"]), (name, "wide"), (clipped(str(entry.get("actor", "")), 80, kind="soft"), ""),
                ("edited" if entry.get("edited") else "", "opt"),
                (moment_ms(float(entry.get("at_ms") or 0), scene.now), "soft"))
        )  # fmt: skip
    return panel(
        heading("Retries", "sent up to then, the last 100"),
        table([("Retry", ""), ("By", ""), ("", "opt"), ("Sent", "")], made, caption="Retries, newest first",
              empty="It had not been retried."),
        label="Retries",
    )  # fmt: skip


# -- both --------------------------------------------------------------------------------------------


def _acts(scene: Scene, found: Found) -> Html:
    made = [
        row(line.id, (clipped(line.actor, 60), ""), (clipped(deeds.did(line.action), 60), ""),
            (clipped(deeds.in_words(line.detail), 300, kind="soft"), "wide opt"), (moment_ms(line.at_ms, scene.now), "soft"))
        for line in found.lines
    ]  # fmt: skip
    note = (
        f"among the newest {audit.ABOUT_LINES:,} audit lines before then"
        if found.is_cut
        else "from the audit"
    )
    return panel(
        heading("What people did to it", note, "bulk actions are on the page of operations"),
        table([("Who", ""), ("Did", ""), ("Detail", "opt"), ("When", "")], made,
              caption="What people did to it, newest first", empty="Nobody did anything to it by itself."),
        label="What people did to it",
    )  # fmt: skip


def _absent(scene: Scene, what: str, gone: str) -> str:
    if scene.trouble:
        return f"The {what} cannot be read: {scene.trouble}"
    found = scene.found
    return gone if isinstance(found, Found) and found.detail == "gone" else "Reading …"


def _clock(ms: float) -> Html:
    return moment_ms(ms, palette.EPOCH)


def _unknown(why: str) -> Html:
    return tag(
        "span",
        icon(palette.UNKNOWN_LOOK.icon, 12),
        _NOT_STORED,
        class_="state c-unknown",
        title=why,
    )


__all__ = ["Found", "job", "letter", "load_job", "load_letter"]
