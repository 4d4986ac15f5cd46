"""Jobs: one queue and state at a time, paged in Redis, every filter in the address."""

from dataclasses import dataclass
from typing import Any, Final, get_args

from app import palette, reader
from app.enqueue import codec_of
from app.pages.address import Address, href
from app.pages.markup import (
    Html,
    button,
    clipped,
    figure,
    icon,
    join,
    link,
    moment_ms,
    panel,
    row,
    select,
    state,
    table,
    tabs,
    tag,
)
from app.pages.overview import known
from app.pages.scene import Page, Reach, Scene
from app.pages.values import preview
from app.palette import JOB_LOOK
from app.reader import JobRow, JobsOf
from app.snapshot import Snapshot

PAGE_ROWS: Final = 50
STATES: Final[tuple[JobsOf, ...]] = get_args(JobsOf)
WORDS: Final = {
    "waiting": "Waiting", "running": "Running", "deferred": "Deferred", "complete": "Complete",
    "failed": "Failed runs",
}  # fmt: skip
#: column of ``queues`` that counts a state
_COUNTED: Final = {"waiting": "waiting", "deferred": "deferred", "running": "running"}
#: pages looked through for one that has a match
MAX_LOOKS: Final = 4


@dataclass(frozen=True, slots=True)
class Found:
    """One page of jobs, and what was looked through for it."""

    queue: str
    state: JobsOf
    rows: list[JobRow]
    cursor: str | None
    scanned: int
    now_ms: int


def chosen_state(address: Address) -> JobsOf:
    """The state an address asks for."""
    asked = address.get("state", "waiting")
    return next((s for s in STATES if s == asked), "waiting")


def chosen_queue(address: Address, snapshot: Snapshot, names: tuple[str, ...]) -> str:
    """The queue an address asks for, or the one where most is in that state."""
    if address.get("queue"):
        return address.get("queue")
    column = _COUNTED.get(chosen_state(address), "complete")
    counts = snapshot.queues[column]
    if counts.notna().any() and counts.max() > 0:
        return str(snapshot.queues["queue"].iloc[int(counts.fillna(-1).to_numpy().argmax())])
    return names[0]


async def load(reach: Reach, address: Address) -> Found:
    """One page; with filters, up to four pages are looked through for matches."""
    queue = chosen_queue(address, reach.snapshot, reach.settings.queue_names)
    wanted = chosen_state(address)
    cursor: str | None = address.get("cursor") or None
    rows: list[JobRow] = []
    scanned, now_ms = 0, 0
    for _ in range(MAX_LOOKS):
        page = await reader.jobs_page(
            reach.connections.holding(queue),
            queue,
            wanted,
            cursor,
            PAGE_ROWS,
            codec=codec_of(reach.settings),
        )
        rows += [job for job in page.items if _matches(job, address)]
        scanned, cursor, now_ms = scanned + page.scanned, page.cursor, page.now_ms or now_ms
        if cursor is None or len(rows) >= PAGE_ROWS // 2 or not _is_filtered(address):
            break
    return Found(queue, wanted, rows, cursor, scanned, now_ms)


def _is_filtered(address: Address) -> bool:
    return bool(address.get("function") or address.get("text"))


def _matches(job: JobRow, address: Address) -> bool:
    function, text = address.get("function"), address.get("text").lower()
    if function and job.function != function:
        return False
    if not text:
        return True
    where = (job.id, job.function, job.error, preview(job.arguments, 2_000), job.worker)
    return any(text in part.lower() for part in where)


# -- what is shown --------------------------------------------------------------------------------


def _above(scene: Scene) -> Html:
    found: Found | None = scene.found
    queue = found.queue if found else chosen_queue(
        scene.address, scene.snapshot, scene.settings.queue_names)  # fmt: skip
    submit = (
        button("Submit a job", "ask", mark=palette.ICONS["add"], what="submit", queue=queue)
        if scene.may_act else None
    )  # fmt: skip
    return join(
        tag("div", tag("h1", "Jobs"), tag("span", submit, class_="end"), class_="title"),
        panel(
            state_tabs(scene, queue, "jobs"),
            _toolbar(scene, found, queue),
            listing(scene, found),
            label="Jobs",
        ),
    )


def state_tabs(scene: Scene, queue: str, page: str) -> Html:
    """A tab per state with its count."""
    rows = scene.snapshot.queues[scene.snapshot.queues["queue"] == queue]
    current = chosen_state(scene.address)
    entries = []
    for name in ("waiting", "running", "deferred", "complete", "failed"):
        count = None
        if name in _COUNTED and len(rows):
            count = palette.count(float(rows[_COUNTED[name]].iloc[0]))
        asked = {"name": queue} if page == "queue" else {"queue": queue}
        where = href(page, **asked, state=name, function=scene.address.get("function"))
        entries.append((where, WORDS[name], count, name == current))
    return tabs(entries, label="States")


def _toolbar(scene: Scene, found: Found | None, queue: str) -> Html:
    if scene.chosen:
        return selection_bar(scene)
    address = scene.address
    names = list(
        dict.fromkeys((*map(str, scene.snapshot.queues["queue"]), *scene.settings.queue_names))
    )
    if queue not in names:
        names.append(queue)
    functions = sorted(
        {str(f) for f in scene.snapshot.runs["function"]} | {address.get("function")} - {""}
    )
    form = tag(
        "form",
        tag("input", type="hidden", name="state", value=chosen_state(address)),
        select("queue", [(n, n) for n in names], queue, label="Queue"),
        select("function", [("", "Any function"), *[(f, f) for f in functions[:200]]],
               address.get("function"), label="Function"),
        tag("input", type="search", name="text", value=address.get("text"),
            placeholder="Text in id, arguments, error", aria_label="Text", autocomplete="off"),
        tag("button", "Filter", type="submit", class_="button"),
        data_go="jobs",
    )  # fmt: skip
    clear = link(href("jobs", queue=queue, state=chosen_state(address)), "Clear",
                 class_="button plain") if _is_filtered(address) else None  # fmt: skip
    return tag("div", form, clear, paging(scene, found), class_="toolbar", data_key="tools")


def selection_bar(scene: Scene) -> Html:
    """What can be done to the rows selected; it stands where the filter stood."""
    wanted = chosen_state(scene.address)
    count = len(scene.chosen)
    controls: list[Html] = []
    if wanted == "deferred":
        controls.append(button("Run now", "promote-chosen", kind="primary once"))
    if wanted in ("waiting", "deferred"):
        controls.append(button(f"Cancel {count} …", "ask", kind="quiet", what="cancel-chosen"))
    return tag(
        "div", tag("b", f"{count} selected"), controls, button("Clear", "clear", kind="plain"),
        tag("span", "the list is held while rows are selected", class_="note"),
        class_="toolbar", data_key="tools",
    )  # fmt: skip


def paging(scene: Scene, found: Found | None) -> Html:
    """What was looked through, and the way on."""
    if found is None:
        return tag("span", class_="end")
    told = []
    if found.state in ("complete", "failed") or _is_filtered(scene.address):
        told.append(f"looked through {palette.count(found.scanned)} of the newest runs"
                    if found.state in ("complete", "failed")
                    else f"looked through {palette.count(found.scanned)} jobs")  # fmt: skip
    first = link(scene.address.but(cursor="").href, "First", class_="button") if (
        scene.address.get("cursor")) else None  # fmt: skip
    following = link(scene.address.but(cursor=found.cursor).href, "Next", class_="button") if (
        found.cursor) else None  # fmt: skip
    return tag("span", told, first, following, class_="end")


def listing(scene: Scene, found: Found | None) -> Html:
    """The table."""
    if scene.trouble:
        return tag("p", f"The jobs cannot be read: {scene.trouble}", class_="empty")
    if found is None:
        return tag("p", "Reading …", class_="empty")
    may_choose = scene.may_act and found.state in ("waiting", "deferred")
    timed = {"waiting": "Waiting since", "deferred": "Due", "running": "Started"}.get(
        found.state, "Ended"
    )
    columns = [
        *([(_all_box(scene), "tick")] if may_choose else []),
        ("", "tick opt"), ("State", ""), ("Function", ""), ("Id", "opt"),
        None if found.state == "complete" else ("Error" if found.state == "failed" else "Arguments", "opt"),
        ("Attempt", "num opt"), ("Worker", "opt"),
        ("Took" if found.state in ("complete", "failed") else "Running", "num opt")
        if found.state in ("complete", "failed", "running") else None,
        (timed, ""), ("", "act"),
    ]  # fmt: skip
    kept = [column for column in columns if column is not None]
    made: list[Html] = []
    for job in found.rows:
        made += _rows(scene, found, job, may_choose=may_choose, width=len(kept))
    return table(kept, made, caption=f"{WORDS[found.state]} jobs of {found.queue}",
                 empty=known(scene.snapshot, _nothing(scene, found)))  # fmt: skip


def _all_box(scene: Scene) -> Html:
    keys = keys_of(scene)
    return tag("input", type="checkbox", data_intent="choose-all", aria_label="Select this page",
               checked=bool(keys) and scene.chosen >= set(keys))  # fmt: skip


def _nothing(scene: Scene, found: Found) -> str:
    if _is_filtered(scene.address):
        return f"None of the {palette.count(found.scanned)} jobs looked through matches the filter."
    return {
        "waiting": f"No job waits in {found.queue}.",
        "deferred": f"No job of {found.queue} is due later.",
        "running": f"No job of {found.queue} is running.",
        "complete": f"No completed run of {found.queue} is remembered.",
        "failed": f"No failed run of {found.queue} is remembered.",
    }[found.state]


def key_of(job: JobRow) -> str:
    """``queue/id``, what a row is known by in the browser."""
    return f"{job.queue}/{job.id}"


def keys_of(scene: Scene) -> list[str]:
    """The rows that may be selected."""
    found: Found | None = scene.found
    if found is None or found.state not in ("waiting", "deferred"):
        return []
    return [key_of(job) for job in found.rows]


def _rows(scene: Scene, found: Found, job: JobRow, *, may_choose: bool, width: int) -> list[Html]:
    key, now = key_of(job), scene.now
    where = href("job", queue=job.queue, id=job.id)
    more = f"more-{key}-{job.attempt}"
    look = JOB_LOOK[job.state]
    ended = found.state in ("complete", "failed")
    cells: list[tuple[object, str]] = []
    if may_choose:
        box = tag("input", type="checkbox", data_intent="choose", data_row=key,
                  checked=key in scene.chosen, aria_label=f"Select {job.id[:80]}")  # fmt: skip
        cells.append((box, "tick"))
    twist = tag("button", icon(palette.ICONS["more"], 12), type="button", class_="twist",
                data_opens=more, aria_expanded="false", aria_label=f"Show more of {job.id[:80]}")  # fmt: skip
    text = job.error if ended else preview(job.arguments)
    cells += [
        (twist, "tick opt"),
        (state(look, job.state.value), ""),
        (link(where, clipped(job.function or "?", 80), class_="strong"), ""),
        (
            link(where, clipped(job.id, 160, kind="mono soft")),
            "wide fair opt" if found.state == "complete" else "id opt",
        ),
        *([] if found.state == "complete" else [(clipped(text, 300, kind="soft"), "wide opt")]),
        (palette.count(job.attempt) if job.attempt else "", "num opt"),
        (clipped(job.worker, 120, kind="soft") if job.worker else "", "opt"),
    ]
    if ended:
        took = (
            (job.finished_ms - job.started_ms) / 1000
            if job.finished_ms and job.started_ms
            else None
        )
        cells.append((figure(palette.duration(took), why="not told"), "num opt"))
        when = job.finished_ms
    elif found.state == "running":
        ran = (found.now_ms - job.started_ms) / 1000 if job.started_ms else None
        cells.append((figure(palette.duration(ran), why="its start is not known"), "num opt"))
        when = job.started_ms
    else:
        when = job.due_ms
    cells.append((moment_ms(when, now), "soft"))
    cells.append((_action(scene, found, job), "act"))
    hidden = tag(
        "tr",
        tag("td", _more(job), colspan=str(width)),
        class_="more", hidden=True, data_own=True, data_key=more,
    )  # fmt: skip
    return [
        row(f"{key}-{job.attempt}", *cells, css="chosen" if key in scene.chosen else ""),
        hidden,
    ]


def _action(scene: Scene, found: Found, job: JobRow) -> Html | None:
    if not scene.may_act:
        return None
    name = f"{job.function[:60]} {job.id[:60]}"
    key = key_of(job)
    if found.state == "running":
        return button("Abort", "ask", label=f"Abort {name}", what="abort", row=key, id=job.id)
    if found.state == "deferred":
        return button("Run now", "promote", kind="quiet once", label=f"Run now {name}", row=key)
    if found.state == "waiting":
        return button("Cancel", "ask", kind="plain", label=f"Cancel {name}", what="cancel", row=key,
                      id=job.id)  # fmt: skip
    return None


def _more(job: JobRow) -> Html:
    from app.pages.values import arguments_block, block

    where = href("job", queue=job.queue, id=job.id)
    parts: list[Any] = [tag("p", tag("code", job.id, class_="break"))]
    if job.error:
        parts.append(block(job.error, label="Error"))
    if job.arguments.args or job.arguments.kwargs or job.arguments.note:
        parts.append(arguments_block(job.arguments, more=where))
    parts.append(link(where, "Open the job"))
    return tag("div", parts, class_="body")


PAGE = Page(above=_above, load=load, reload_s=2.0, keys=keys_of)

__all__ = ["PAGE", "Found", "chosen_state", "key_of", "keys_of", "listing", "load", "paging",
           "selection_bar", "state_tabs"]  # fmt: skip
