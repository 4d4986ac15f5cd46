"""One job: its life as a line, what it carried and gave, every attempt, and what can be done now."""

import json
from typing import Any, Final

from app import palette, reader
from app.enqueue import codec_of
from app.errors import InvalidRequest
from app.jobs.chain import link_of
from app.pages.address import Address, href
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
    row,
    safe_text,
    state,
    table,
    tabs,
    tag,
)
from app.pages.obstacle import obstacle
from app.pages.scene import Page, Reach, Scene
from app.pages.values import arguments_block, block, text_of
from app.palette import JOB_LOOK, OUTCOME_LOOK
from app.reader import JobDetail
from app.records import JobState, LetterState, Outcome

TABS: Final = {
    "data": "Data", "result": "Result", "progress": "Progress", "errors": "Errors", "trail": "Trail",
}  # fmt: skip
#: ms between being enqueued and being due from which a job was put off
PUT_OFF_MS: Final = 1_000
_ENDED: Final = frozenset({JobState.COMPLETE, JobState.FAILED, JobState.DEAD, JobState.ABORTED})


async def load(reach: Reach, address: Address) -> JobDetail | str:
    """The job, or a word on why it is not there."""
    job_id = address.get("id")
    if not job_id:
        raise InvalidRequest("the address names no job", field="id")
    names = [name for name in (address.get("queue"), *reach.settings.queue_names) if name]
    found = await reader.find_job(
        reach.connections, job_id, queues=names, codec=codec_of(reach.settings)
    )
    return found or "gone"


def _above(scene: Scene) -> Html:
    found = scene.found
    job_id = scene.address.get("id")
    if scene.trouble or not isinstance(found, JobDetail):
        return join(_title(scene, None), panel(tag("p", _absent(scene, job_id), class_="empty"),
                                               label="Job"))  # fmt: skip
    return join(
        _title(scene, found),
        _retried(found) or _why_not(scene, found),
        panel(_timeline(found, scene), _facts(found, scene), label="Life of the job"),
        panel(_tabs(scene, found), _tab(scene, found), label="Details"),
    )


def _absent(scene: Scene, job_id: str) -> str:
    if scene.trouble:
        return f"The job cannot be read: {scene.trouble}"
    if scene.found == "gone":
        return (
            f"Nobody knows a job {job_id}. Its result may have expired, or it was never enqueued."
        )
    return "Reading …"


def _title(scene: Scene, job: JobDetail | None) -> Html:
    job_id = scene.address.get("id")
    queue = (job.queue if job else "") or scene.address.get("queue")
    crumb = tag("span", link(href("jobs", queue=queue), "Jobs"), " / ", class_="crumb")
    if job is None:
        return tag("div", crumb, tag("h1", safe_text(job_id, 160), class_="mono"), class_="title")
    said = state(JOB_LOOK[job.state], job.state.value)
    return tag(
        "div", crumb, tag("h1", safe_text(job.function or "?", 80)), said,
        tag("span", _actions(scene, job), class_="end"), class_="title",
    )  # fmt: skip


def _actions(scene: Scene, job: JobDetail) -> list[Html]:
    """Every action, those that do not apply with the reason."""
    if not scene.may_act:
        return []
    key = f"{job.queue}/{job.id}"
    word = JOB_LOOK[job.state].word
    running, waits = job.state is JobState.RUNNING, job.state in (
        JobState.QUEUED, JobState.DEFERRED, JobState.RETRYING)  # fmt: skip
    letter = job.letter if job.letter and job.letter.state is LetterState.NEW else None
    due_later = job.state in (JobState.DEFERRED, JobState.RETRYING)
    made = [
        button("Retry", "retry", kind="primary once", mark=palette.ICONS["retry"],
               row=f"{job.queue}/{letter.id}") if letter else None,
        button("Run now", "promote", kind="quiet once", row=key,
               refused="" if due_later else f"only a deferred job can be brought forward; this one is {word}"),
        button("Reschedule …", "ask", what="reschedule", row=key, id=job.id,
               refused="" if waits else f"only a job that waits can be put off; this one is {word}"),
        button("Cancel …", "ask", what="cancel", row=key, id=job.id,
               refused="" if waits else f"only a job that waits can be cancelled; this one is {word}"),
        button("Abort …", "ask", what="abort", row=key, id=job.id,
               refused="" if running else f"only a running job can be aborted; this one is {word}"),
    ]  # fmt: skip
    return [control for control in made if control]


def _why_not(scene: Scene, job: JobDetail) -> Html | None:
    found = obstacle(job, scene.snapshot)
    if found is None:
        return None
    tone = "deferred" if found.is_expected else "queued"
    return tag(
        "div",
        icon(palette.ICONS["help" if found.is_expected else "warn"], 15),
        tag("div", tag("p", tag("b", "Why it does not run: "), found.why),
            tag("p", found.remedy) if found.remedy else None),
        tag("span", [link(where, word, class_="button") for word, where in found.links], class_="end"),
        class_=f"banner verdict c-{tone}", role="status", data_key="why",
    )  # fmt: skip


#: what became of a retry, by the state of the letter it is of
_RETRY_BECAME: Final = {
    LetterState.NEW: "did not end well, and the dead letter is open",
    LetterState.RETRYING: "is under way",
    LetterState.RESOLVED: "ended well",
}


def _retried(job: JobDetail) -> Html | None:
    """What came after a job that ended and whose dead letter was retried since: another job."""
    letter = job.letter
    if letter is None or not job.retried_as or job.state not in _ENDED:
        return None
    became = _RETRY_BECAME.get(letter.state, f"was the last; the dead letter is {letter.state}")
    tone = {LetterState.RESOLVED: "complete", LetterState.RETRYING: "retrying"}.get(
        letter.state, "queued"
    )
    where = href("job", queue=job.queue, id=job.retried_as)
    return tag(
        "div",
        icon(palette.ICONS["retry"], 15),
        tag("p", tag("b", f"This job has ended ({JOB_LOOK[job.state].word}). "), "Its retry ",
            tag("code", safe_text(job.retried_as, 160), class_="break"), f" {became}."),
        tag("span", link(where, "Open the retry", class_="button"), class_="end"),
        class_=f"banner verdict c-{tone}", role="status", data_key="retried",
    )  # fmt: skip


def _timeline(job: JobDetail, scene: Scene) -> Html:
    now = scene.now
    steps: list[Html] = []

    def step(word: str, ms: float, tone: str, more: object = "", *, ahead: bool = False) -> None:
        when = moment_ms(ms, now) if ms else tag("span", palette.UNKNOWN, class_="unknown",
                                                 title="not known")  # fmt: skip
        steps.append(
            tag("li", tag("i", class_="pin"), tag("b", word), when, tag("span", more, class_="soft"),
                class_=f"c-{tone} ahead" if ahead else f"c-{tone}", data_key=f"{word}-{len(steps)}")
        )  # fmt: skip

    step("Enqueued", job.enqueued_ms, "unknown", job.queue)
    attempts = list(reversed(job.runs))[-4:]
    letter = job.letter

    def buried() -> None:
        if letter is not None:
            css = "complete" if letter.state is LetterState.RESOLVED else "dead"
            where = href("dead-letter", source=job.queue, id=letter.id)
            step("Dead letter", letter.died_ms, css, link(where, letter.state))

    # a retry has the letter of an earlier run: its attempts began after that death
    died_ms = letter.died_ms if letter is not None else 0
    later = (n for n, run in enumerate(attempts) if died_ms and run.started_ms > died_ms)
    died_before = next(later, len(attempts))
    due_ahead = job.state in (JobState.DEFERRED, JobState.RETRYING, JobState.QUEUED)
    if not attempts:
        step("Due", job.due_ms, "deferred", ahead=job.state is JobState.DEFERRED)
    for number, run in enumerate(attempts):
        if number == died_before:
            buried()
        if (
            run.attempt == 1
            and run.due_ms - (died_ms if number >= died_before else run.enqueued_ms) >= PUT_OFF_MS
        ):
            step("Due", run.due_ms, "deferred")
        look = OUTCOME_LOOK[run.outcome]
        css = {Outcome.COMPLETE: "complete", Outcome.DEAD: "dead", Outcome.RETRY: "retrying",
               Outcome.ABORTED: "aborted"}.get(run.outcome, "unknown")  # fmt: skip
        took = palette.duration(run.runtime_s)
        step(f"Attempt {run.attempt}: {look.word}", run.finished_ms, css, f"{took} on {run.worker}")
    if died_before == len(attempts):
        buried()
    if due_ahead and attempts and job.due_ms > attempts[-1].started_ms:
        step("Due again", job.due_ms, "deferred", ahead=True)
    if job.state is JobState.RUNNING:
        step(f"Attempt {job.attempt}: running", job.started_ms, "running", f"on {job.worker}")
    return tag("ol", steps, class_="timeline", aria_label="Timeline")


def _facts(job: JobDetail, scene: Scene) -> Html:
    wait = (job.started_ms - job.due_ms) / 1000 if job.started_ms and job.due_ms else None
    ran = None
    if job.started_ms:
        end = job.finished_ms or scene.now.timestamp() * 1000
        ran = max(0.0, (end - job.started_ms) / 1000)
    size = job.arguments.size_bytes or None
    return facts(
        [
            ("Id", tag("code", job.id, class_="break")),
            ("Queue", link(href("queue", name=job.queue), job.queue) if job.queue else palette.UNKNOWN),
            ("Attempt", figure(str(job.attempt) if job.attempt else palette.UNKNOWN,
                               why="it has not started yet")),
            ("Waited", figure(palette.duration(max(0.0, wait) if wait is not None else None),
                              why="it has not started yet",
                              title="from when it was due to when it started")),
            ("Ran", figure(palette.duration(ran), why="it has not started yet")),
            ("Worker", clipped(job.worker, 120)),
            ("Payload", figure(palette.size(size), why="the payload is gone")),
            ("Correlation", clipped(job.correlation_id, 120, kind="mono")),
        ]
    )  # fmt: skip


def _current(scene: Scene, job: JobDetail) -> str:
    asked = scene.address.get("tab")
    if asked in TABS:
        return asked
    if any(run.error for run in job.runs) or job.letter is not None:
        return "errors"
    return "progress" if job.state is JobState.RUNNING and job.progress else "data"


def _tabs(scene: Scene, job: JobDetail) -> Html:
    current = _current(scene, job)
    errors = sum(1 for run in job.runs if run.error)
    counts: dict[str, object] = {"errors": errors or "", "trail": len(job.runs) or ""}
    return tabs(
        [(scene.address.but(tab=name, whole="").href, word, counts.get(name, ""), name == current)
         for name, word in TABS.items()],
        label="Details",
    )  # fmt: skip


def _tab(scene: Scene, job: JobDetail) -> Html:
    current = _current(scene, job)
    whole = scene.address.get("whole") == "1"
    more = scene.address.but(tab=current, whole="1").href
    match current:
        case "data":
            shown: Any = arguments_block(job.arguments, whole=whole, more=more)
        case "result":
            shown = _result(job, whole=whole, more=more)
        case "progress":
            shown = _progress(job)
        case "errors":
            shown = _errors(job, whole=whole, more=more)
        case _:
            return _trail(job, scene)
    return tag("div", shown, class_="body", data_key=f"tab-{current}")


def _result(job: JobDetail, *, whole: bool, more: str) -> Html:
    if job.result_note:
        return tag("p", f"Not shown: {job.result_note}.", class_="empty")
    if job.state not in _ENDED:
        return tag("p", "There is no result yet.", class_="empty")
    if job.result is None:
        return tag("p", "It returned nothing, or its result has expired.", class_="empty")
    return block(text_of(job.result), whole=whole, more=more, label="Result")


def _progress(job: JobDetail) -> Html:
    told = dict(job.progress)
    if not told:
        return tag("p", "The job told no progress. ", tag("code", 'await ctx["job"].progress(…)'),
                   " does.", class_="empty")  # fmt: skip
    parts: list[Html] = []
    share = _share(told)
    if share is not None:
        parts.append(tag("div", tag("i", style=f"width:{share * 100:.0f}%"), class_="progress",
                         role="progressbar", aria_valuenow=f"{share * 100:.0f}",
                         aria_label="Progress"))  # fmt: skip
    lines = told.pop("log", "")
    parts.append(facts((name, safe_text(value, 300)) for name, value in sorted(told.items())))
    if lines:
        parts.append(block(lines, label="Log"))
    return tag("div", parts)


def _share(told: dict[str, str]) -> float | None:
    for name in ("share", "percent", "progress"):
        try:
            value = float(told[name])
        except (KeyError, ValueError):
            continue
        return min(1.0, max(0.0, value / 100 if name == "percent" or value > 1 else value))
    return None


def _errors(job: JobDetail, *, whole: bool, more: str) -> Html:
    attempts: list[dict[str, Any]] = []
    if job.letter is not None:
        try:
            attempts = [a for a in json.loads(job.letter.history) if isinstance(a, dict)]
        except ValueError:
            attempts = []
    made = []
    if job.letter is not None and (job.letter.error or job.letter.traceback):
        text = job.letter.traceback or job.letter.error
        # the letter tells of the last death of its chain, which may be another job's
        label = (
            "Last error of the dead letter"
            if job.retried_as or job.id != job.letter.id
            else "Last error"
        )
        made.append(tag("div", tag("p", tag("b", label), " "), block(
            text, whole=whole, more=more, label=label), class_="attempt"))  # fmt: skip
    made += [
        _attempt(run.attempt, run.error, run.finished_ms, run.worker)
        for run in job.runs
        if run.error
    ]
    if not job.runs:
        made += [
            _attempt(a.get("attempt", "?"), str(a.get("error", "")), 0, "") for a in attempts[-20:]
        ]
    if not made:
        return tag("p", "No attempt of this job failed.", class_="empty")
    return tag("div", made)


def _attempt(number: object, error: str, finished_ms: float, worker: str) -> Html:
    when = moment_ms(finished_ms, palette.EPOCH) if finished_ms else None
    return tag(
        "div",
        tag(
            "p", tag("b", f"Attempt {number}"), " ", when, tag("span", f" {worker}", class_="note")
        ),
        block(error, label=f"Error of attempt {number}"),
        class_="attempt",
    )


def _trail(job: JobDetail, scene: Scene) -> Html:
    root = link_of(job.id).root
    made = []
    for number, run in enumerate(job.runs):
        look = OUTCOME_LOOK[run.outcome]
        made.append(
            row(
                f"{run.attempt}-{run.finished_ms}-{number}",
                (tag("span", icon(look.icon, 12), look.word, class_="state"), ""),
                (str(run.attempt), "num"),
                (palette.duration(run.wait_s), "num opt"),
                (palette.duration(run.runtime_s), "num"),
                (clipped(run.worker, 120, kind="soft"), "wide"),
                (moment_ms(run.finished_ms, scene.now), "soft"),
            )
        )
    lineage = []
    if root != job.id:
        lineage.append(
            tag(
                "p",
                "A retry of ",
                link(href("job", queue=job.queue, id=root), tag("code", root)),
                ".",
            )
        )
    if job.letter is not None:
        where = href("dead-letter", source=job.queue, id=job.letter.id)
        lineage.append(tag("p", "Dead letter: ", link(where, tag("code", job.letter.id)),
                           f" ({job.letter.state}, retried {job.letter.redrives} times)."))  # fmt: skip
    if job.correlation_id:
        lineage.append(tag("p", "Correlation id ", tag("code", job.correlation_id), "."))
    columns = [("Outcome", ""), ("Attempt", "num"), ("Waited", "num opt"), ("Ran", "num"), ("Worker", ""),
               ("Ended", "")]  # fmt: skip
    return tag(
        "div",
        tag("div", lineage, class_="body") if lineage else None,
        table(columns, made, caption="Runs, newest first",
              empty="No run of it is among the last 2,000 of its queue."),
        data_key="tab-trail",
    )  # fmt: skip


PAGE = Page(
    above=_above,
    load=load,
    reload_s=2.0,
    title=lambda address: f"Job {address.get('id')[:24]}",
)

__all__ = ["PAGE", "load"]
