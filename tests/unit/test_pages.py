"""The pages as one component: what they show, what they never show, what survives a refresh."""

import dataclasses
import gc
import re
import weakref
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import pandas as pd
import pytest
from bokeh.document import Document

from app import actions, frames, palette
from app.actions import ActionReport, Actor, Connections
from app.enqueue import Enqueued
from app.errors import ActionRefused, InvalidRequest
from app.jobs.detail import JobDetail
from app.pages import markup, masthead, one_job, submission
from app.pages.address import PLACES, Address, address_of
from app.pages.cards import cards
from app.pages.dialogs import Asked
from app.pages.findings import PAGE_ROWS
from app.pages.screen import PARTS
from app.pages.summary import held, per_minute, verdict
from app.pages.values import masked, text_of
from app.pages.visit import Visit
from app.palette import Verdict
from app.payloads.contents import Arguments
from app.records import DeadLetter, JobRun, JobState, LetterState, Outcome
from app.sampling import record_rows
from app.settings import Settings
from app.snapshot import Snapshot

NOW = pd.Timestamp("2026-11-23T12:00:00Z").as_unit("us")
NOW_MS = NOW.timestamp() * 1000
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'


class Elements(HTMLParser):
    """Names of the elements and attributes of a document."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


class FakeCollector:
    """Holds a snapshot and its subscribers."""

    def __init__(self, snapshot):
        self.snapshot = snapshot
        self.callbacks = {}

    def subscribe(self, callback):
        self.callbacks[1] = callback
        return 1

    def unsubscribe(self, key):
        self.callbacks.pop(key, None)

    def publish(self, snapshot):
        self.snapshot = snapshot
        for callback in self.callbacks.values():
            callback(snapshot)


def make_letter(number, **more):
    return {
        "id": f"job-{number}", "kind": "job", "source": "async-processing", "name": "data-sync",
        "state": "new", "error_type": "ValueError", "error": "ValueError: bad", "attempts": 3,
        "fingerprint": "f1", "died": NOW_MS - number * 1000, **more,
    }  # fmt: skip


def make_queue(**more):
    return {
        "queue": "async-processing", "waiting": 1248, "deferred": 40, "running": 10,
        "dead_open": 3, "dead_retrying": 0, "oldest_wait_s": 12.4, "workers": 2, "slots": 10,
        "busy": 10, **more,
    }  # fmt: skip


def make_snapshot(*, queues=(), letters=(), number=1, history=(), **more):
    dead = frames.frame_of(letters, frames.DEAD_LETTER_COLUMNS)
    return dataclasses.replace(
        Snapshot.empty(NOW),
        number=number,
        queues=frames.frame_of(queues, frames.QUEUE_COLUMNS),
        dead_letters=dead,
        causes=record_rows.causes_frame(dead),
        history=frames.frame_of(history, frames.HISTORY_COLUMNS),
        **more,
    )


def make_visit(snapshot, *, role="operator", settings=None, page="queues", query=None, **more):
    nowhere = Connections(queue=None, streams=None, cache=None)
    collector = FakeCollector(snapshot)
    visit = Visit(
        collector, settings or Settings(), lambda: Actor(name="ann", role=role), nowhere,
        address=Address(page, {**(query or {}), **more}), refresh_s=1,
    )  # fmt: skip
    visit._pulse.shown_number = 0  # the first snapshots are shown whenever they come
    return visit, collector


def shown(visit):
    """All HTML of the page."""
    return visit.screen.html()


def publish(collector, visit, snapshot):
    """A snapshot that comes after the refresh interval."""
    visit._pulse.shown_at = 0.0
    collector.publish(dataclasses.replace(snapshot, number=visit._pulse.shown_number + 1))


def words(html):
    """The text of *html*."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_known_numbers_are_shown_as_they_are():
    """
    1,248 jobs are 1,248, not 1.2 k.
    """
    visit, _ = make_visit(make_snapshot(queues=[make_queue()]))

    text = words(shown(visit))
    assert "Waiting 1,248" in text
    assert "10 of 10 slots busy" in text


def test_unknown_numbers_are_a_dash_with_a_reason():
    """
    Before the first sample nothing is zero.
    """
    visit, _ = make_visit(make_snapshot(number=0))

    strip = visit.screen.strip
    assert re.findall(r'class="figure"', strip) == []
    assert strip.count('class="unknown" title="not known') == 7
    assert "No dead letters" not in shown(visit)


def test_a_lost_redis_greys_the_last_known_numbers():
    """
    The values stay, the banner says since when and where, without a password.
    """
    visit, collector = make_visit(make_snapshot(queues=[make_queue()]))

    lost = make_snapshot(
        queues=[{"queue": "async-processing"}],
        problems={"queue": "redis://:***@host:6381/0: ConnectionError: refused"},
        stale_since={"queue": NOW - pd.Timedelta(seconds=12)},
    )
    publish(collector, visit, lost)

    html = shown(visit)
    assert "1,248" in html
    assert 'class="strip stale"' in html
    assert "last answer 12 s ago" in html
    assert verdict(lost)[0] is Verdict.DOWN


@pytest.mark.parametrize("problems", [{}, {"queue": "redis://host:6381/0: refused"}])
def test_no_snapshot_outlives_the_next_ones(problems):
    """
    What is made of a snapshot once for all viewers is kept with it, and never holds on to one.
    """
    visit, collector = make_visit(make_snapshot(queues=[make_queue()]))
    seen = []
    for _ in range(6):
        publish(collector, visit, make_snapshot(queues=[make_queue()], problems=problems))
        seen.append(weakref.ref(collector.snapshot))
    gc.collect()

    assert [ref() is None for ref in seen] == [True] * 5 + [False]


def test_a_degraded_process_is_called_what_it_is():
    """
    It says which process is in trouble, in one sentence with one full stop.
    """
    troubled = {"host": "box", "pid": 7, "state": "degraded", "trouble": "Redis is away."}
    snapshot = make_snapshot(
        queues=[make_queue()],
        workers=frames.frame_of(
            [{**troubled, "id": role, "role": role} for role in ("worker", "events", "dead-letters")],
            frames.WORKER_COLUMNS,
        ),
    )  # fmt: skip

    assert verdict(snapshot)[1] == [
        "Worker box:7 is degraded: Redis is away.",
        "Event processor box:7 is degraded: Redis is away.",
        "Dead-letter processor box:7 is degraded: Redis is away.",
    ]


def test_hostile_strings_stay_text():
    """
    Ids, errors, queue names, event types and worker names come from whoever can write to Redis.
    """
    snapshot = make_snapshot(
        queues=[make_queue(queue=EVIL)],
        letters=[make_letter(1, id=EVIL, name=EVIL, error=EVIL, error_type=EVIL, source=EVIL,
                             reason=EVIL, fingerprint=EVIL, decision=EVIL, decision_reason=EVIL)],
        problems={"cache": EVIL},
        workers=frames.frame_of(
            [{"id": EVIL, "host": EVIL, "source": EVIL, "state": EVIL, "trouble": EVIL}],
            frames.WORKER_COLUMNS,
        ),
        running=frames.frame_of(
            [{"job_id": EVIL, "queue": EVIL, "function": EVIL}], frames.RUNNING_COLUMNS
        ),
        events=frames.frame_of(
            [{"id": EVIL, "type": EVIL, "handlers": EVIL, "outcome": EVIL}], frames.EVENT_COLUMNS
        ),
        groups=frames.frame_of([{"stream": EVIL, "group": EVIL}], frames.GROUP_COLUMNS),
        runs=frames.frame_of([{"function": EVIL}], frames.RUN_COLUMNS),
    )  # fmt: skip

    visit, _ = make_visit(snapshot)

    html = shown(visit)
    seen = Elements()
    seen.feed(html)
    assert not seen.names & {"img", "script"}
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert "\u202e" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_markup_cannot_be_made_by_accident():
    """
    A plain string is escaped as child and as attribute; handlers are refused.
    """
    assert markup.tag("b", "<i>", title='"x"') == '<b title="&quot;x&quot;">&lt;i&gt;</b>'
    with pytest.raises(ValueError, match="onclick"):
        markup.tag("b", onclick="alert(1)")
    with pytest.raises(ValueError, match="script x"):
        markup.tag("script x")


def test_a_selection_survives_refreshes_and_holds_the_list():
    """
    New letters do not move rows under the pointer.
    """
    letters = [make_letter(n) for n in range(1, 4)]
    visit, collector = make_visit(make_snapshot(letters=letters), page="dead-letters")
    key = "async-processing/job-2"

    visit._handle({"intent": "choose", "row": key, "checked": True})
    publish(collector, visit, make_snapshot(letters=[make_letter(0), *letters]))

    html = visit.screen.above
    assert visit._selection.rows == {key}
    assert re.findall(r'<tr data-key="async-processing/(job-\d)"', html) == [
        "job-1",
        "job-2",
        "job-3",
    ]
    assert re.search(r'data-row="async-processing/job-2" checked', html)
    assert "1 selected" in html


def test_deselecting_lets_the_list_move_again():
    """
    The new letter comes in when nothing is selected.
    """
    letters = [make_letter(1)]
    visit, collector = make_visit(make_snapshot(letters=letters), page="dead-letters")
    choose = {"intent": "choose", "row": "async-processing/job-1"}

    visit._handle({**choose, "checked": True})
    visit._handle({**choose, "checked": False})
    publish(collector, visit, make_snapshot(letters=[make_letter(0), *letters]))

    assert 'data-key="async-processing/job-0"' in visit.screen.above


def test_a_row_that_is_not_shown_cannot_be_selected():
    """
    A message from a browser is not believed.
    """
    visit, _ = make_visit(make_snapshot(letters=[make_letter(1)]), page="dead-letters")

    visit._handle({"intent": "choose", "row": "async-processing/other", "checked": True})

    assert visit._selection.rows == set()


def test_letters_come_in_pages_and_by_cause():
    """
    The page and the filter are in the address, and say how many they match.
    """
    rows = PAGE_ROWS + 5
    letters = [make_letter(n, fingerprint="f1" if n < rows - 2 else "f2") for n in range(rows)]
    snapshot = make_snapshot(letters=letters)

    second, _ = make_visit(snapshot, page="dead-letters", page_="")
    second.address = second.address.but(page=1)
    second.refresh()
    one, _ = make_visit(snapshot, page="dead-letters", cause="f2")

    assert f"{PAGE_ROWS + 1}–{rows} of {rows}" in second.screen.above  # noqa: RUF001
    assert "1–2 of 2" in one.screen.above  # noqa: RUF001


def test_behind_the_letters_a_snapshot_holds_the_list_goes_on_by_time():
    """
    Two of async-processing's three are held: the way on begins with the oldest of them. All held: no way on.
    """
    letters = [make_letter(1), make_letter(2), make_letter(9, source="mail", state="new")]
    queues = [make_queue(dead_open=3), make_queue(queue="mail", dead_open=1)]
    cut, _ = make_visit(make_snapshot(queues=queues, letters=letters), page="dead-letters")
    mail, _ = make_visit(
        make_snapshot(queues=queues, letters=letters), page="dead-letters", source="mail"
    )
    whole, _ = make_visit(
        make_snapshot(queues=[make_queue(dead_open=2), queues[1]], letters=letters),
        page="dead-letters",
    )

    assert f"cursor={int(NOW_MS) - 2000}" in cut.screen.above
    assert ">Older<" in cut.screen.above
    assert ">Older<" not in mail.screen.above + whole.screen.above


def test_an_address_keeps_only_what_its_page_takes():
    """
    What somebody typed into the bar is cut and filtered; an unknown page is the overview.
    """
    asked = address_of("jobs", "?state=waiting&evil=1&text=" + "x" * 1000)

    assert asked.page == "jobs"
    assert dict(asked.query) == {"state": "waiting", "text": "x" * 300}
    assert address_of("nonsense", "%%%;&&").page == "queues"


@pytest.mark.parametrize("page", PLACES)
def test_every_page_can_be_shown_before_anything_is_known(page):
    """
    No page fails on an empty snapshot, or without its own data.
    """
    visit, _ = make_visit(make_snapshot(number=0), page=page)

    assert "<h1" in shown(visit)


def test_secrets_are_masked_by_their_key():
    """
    A password in a job's data does not reach a screen.
    """
    value = {"user": "ann", "api_key": "k1", "deep": [{"Password": "p1", "token": None}]}

    text = text_of(value)

    assert "k1" not in text
    assert "p1" not in text
    assert masked(value)["deep"][0]["token"] is None


def test_a_hidden_tab_costs_nothing():
    """
    Nothing is sent until somebody looks again.
    """
    visit, collector = make_visit(make_snapshot(queues=[make_queue()]))
    visit._handle({"intent": "seen", "value": False})
    before = shown(visit)

    publish(collector, visit, make_snapshot(queues=[make_queue(waiting=7)]))
    hidden = shown(visit)
    visit._handle({"intent": "seen", "value": True})

    assert hidden == before
    assert shown(visit) != before


def test_a_dangerous_thing_is_asked_about_first(monkeypatch):
    """
    The message of a confirmation alone does nothing: somebody must have been asked.
    """
    asked = []
    monkeypatch.setattr(actions, "clean_queue", lambda *given: asked.append(given))
    visit, _ = make_visit(
        make_snapshot(queues=[make_queue()]), page="queue", name="async-processing"
    )

    for message in ({"intent": "clean"}, {"intent": "confirm", "fields": {}}, {"intent": "stop"}):
        visit._handle({**message, "queue": "async-processing", "status": "waiting"})

    assert asked == []
    assert not visit._errands.under_way


async def test_a_purge_needs_the_name_of_the_queue(monkeypatch):
    """
    A wrong name keeps the dialog and says so.
    """
    asked = []

    async def clean(connections, settings, actor, queue, status, age_s=0):
        asked.append((queue, status))
        return ActionReport(action="clean_queue", changed=True, message="3 waiting cleaned")

    monkeypatch.setattr(actions, "clean_queue", clean)
    visit, _ = make_visit(make_snapshot(queues=[make_queue()]), page="settings")
    visit._handle(
        {"intent": "ask", "what": "clean", "queue": "async-processing", "status": "waiting"}
    )

    for typed in ("async", "async-processing"):
        visit._handle({"intent": "confirm", "fields": {"typed": typed}})
        for task in list(visit._errands.under_way):
            await task
        if typed == "async":
            assert "another one" in words(visit.screen.dialog)
    visit.refresh()

    assert asked == [("async-processing", "waiting")]
    assert visit.screen.dialog == ""


async def test_retry_calls_the_action_with_the_actor(monkeypatch):
    """
    The button acts on the letter of its own row.
    """
    asked = []

    async def retry(connections, settings, actor, source, letter_id, delay_s=0):
        asked.append((actor.name, source, letter_id))
        return ActionReport(action="retry_letter", changed=True)

    monkeypatch.setattr(actions, "retry_letter", retry)
    visit, _ = make_visit(make_snapshot(letters=[make_letter(1)]))

    visit._handle({"intent": "retry", "row": "async-processing/job-1"})
    for task in list(visit._errands.under_way):
        await task

    assert asked == [("ann", "async-processing", "job-1")]
    assert "Retrying job-1" in words(visit.screen.notices)


async def test_a_refused_action_is_said(monkeypatch):
    """
    Nothing fails silently.
    """

    async def refuse(*args):
        raise ActionRefused("its payload is gone")

    monkeypatch.setattr(actions, "discard_letter", refuse)
    visit, _ = make_visit(make_snapshot(letters=[make_letter(1)]))

    await visit._counter._perform("discard", {"row": "async-processing/job-1"})

    assert "Not done: its payload is gone" in words(visit.screen.notices)


async def test_discarding_offers_undo(monkeypatch):
    """
    What can be taken back says so where it happened.
    """

    async def discard(*args):
        return ActionReport(action="discard_letter", changed=True)

    monkeypatch.setattr(actions, "discard_letter", discard)
    visit, _ = make_visit(make_snapshot(letters=[make_letter(1)]))

    await visit._counter._perform("discard", {"row": "async-processing/job-1"})

    assert 'data-intent="undo-discard"' in visit.screen.notices
    assert 'data-row="async-processing/job-1"' in visit.screen.notices


def test_a_viewer_sees_everything_and_gets_no_control():
    """
    No button is made for whom it would not work.
    """
    snapshot = make_snapshot(queues=[make_queue()], letters=[make_letter(1)])
    for page in PLACES:
        visit, _ = make_visit(snapshot, role="viewer", page=page)
        html = shown(visit)
        for intent in ("retry", "discard", "pause", "ask", "choose", "quiet", "concurrency"):
            assert f'data-intent="{intent}"' not in html, page


def test_what_visits_share_says_to_each_why_nothing_can_be_done():
    """
    Two who may not act for two reasons look at one snapshot: neither reads the other's.
    """
    snapshot = make_snapshot(queues=[make_queue()])

    viewer, _ = make_visit(snapshot, role="viewer")
    nobody, _ = make_visit(snapshot, settings=Settings(read_only=True))

    refusals = [visit.scene(snapshot).refusal for visit in (viewer, nobody)]
    assert len(set(refusals)) == 2
    told = [re.search("You may look, not act: ([^<]*)", shown(v))[1] for v in (viewer, nobody)]
    assert [unescape(text) for text in told] == refusals


async def test_a_submitted_job_is_answered_with_a_way_to_watch_it(monkeypatch):
    """
    The accepted id is said, and is a link.
    """

    async def submit(connections, settings, actor, queue, requests, functions_known=None):
        assert requests[0].args == ({"n": 1},)
        return [Enqueued("j1", True)]

    monkeypatch.setattr(actions, "submit_jobs", submit)
    visit, _ = make_visit(make_snapshot(queues=[make_queue()]))
    fields = {"queue": "async-processing", "name": "data-sync", "data": '{"n": 1}'}

    await visit._counter._confirm(Asked("submit"), fields)

    assert "Accepted data-sync as j1 on async-processing" in words(visit.screen.notices)
    assert 'href="job?queue=async-processing&amp;id=j1"' in visit.screen.notices


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"name": "x", "data": "{"}, "data"), ({"name": "x", "data": "[1]"}, "data"),
     ({"data": "{}"}, "name"), ({"name": "x", "delay": "soon"}, "delay"),
     ({"name": "x", "delay": "-1"}, "delay"), ({"name": "x", "delay": "nan"}, "delay"),
     ({"name": "x", "data": "[" * 100_000}, "data")],
)  # fmt: skip
def test_a_wrong_field_is_named(fields, field):
    """
    The form marks the field and says the remedy.
    """
    with pytest.raises(InvalidRequest) as caught:
        submission.request_of({"queue": "q", **fields})

    assert caught.value.field == field
    assert submission.refused(caught.value)[1] == field


def test_the_component_renders_under_a_document():
    """
    The same object in a server session and in a notebook; stopping unsubscribes.
    """
    visit, collector = make_visit(make_snapshot(queues=[make_queue()]))
    document = Document()

    document.add_root(visit.__panel__().get_root(document))

    assert len(document.roots) == 1
    visit.stop()
    assert collector.callbacks == {}


def test_a_sample_streams_one_row():
    """
    Charts get the delta, not the hour.
    """
    row = {"at": NOW_MS, "queue": "async-processing", "complete_per_s": 2.0, "waiting": 5}
    visit, collector = make_visit(make_snapshot(queues=[make_queue()], history=[row]))
    source = visit.gallery.source

    rows = [row, {**row, "at": NOW_MS + 1000, "waiting": 6}]
    publish(collector, visit, make_snapshot(queues=[make_queue()], history=rows))

    assert visit.gallery.source is source
    assert list(source.data["waiting:0"]) == [5, 6]


def test_nothing_new_sends_nothing():
    """
    The same snapshot twice changes no section.
    """
    snapshot = make_snapshot(queues=[make_queue()], letters=[make_letter(1)])
    visit, collector = make_visit(snapshot)
    changes = []
    visit.screen.param.watch(changes.append, [*PARTS, "place", "title"])

    publish(collector, visit, snapshot)

    assert changes == []


def test_the_last_minute_is_counted_and_says_when_it_is_short():
    """
    Done/min is the mean of what was sampled; less than a minute is an estimate.
    """
    rows = [
        {"at": NOW_MS - n * 1000, "queue": q, "complete_per_s": c, "failed_per_s": 0.0}
        for n in range(10)
        for q, c in (("a", 2.0), ("b", 0.5))
    ]
    history = make_snapshot(history=rows[::-1]).history

    minute = per_minute(history, NOW)

    assert minute.complete == pytest.approx(150)
    assert minute.is_estimate


def test_a_queue_without_worker_is_only_told_when_it_is_known():
    """
    An unknown number of workers is not none.
    """
    known, _ = make_visit(make_snapshot(queues=[make_queue(workers=0, slots=0, busy=0)]))
    unknown, _ = make_visit(make_snapshot(queues=[make_queue(workers=None)]))

    assert "no worker</span>" in shown(known)
    assert "no worker" not in words(unknown.screen.above)


def test_held_numbers_are_only_those_of_the_lost_source():
    """
    The rest goes on.
    """
    good = make_snapshot(queues=[make_queue()])
    now = make_snapshot(queues=[make_queue(waiting=7)], problems={"cache": "gone"})

    assert held(now, good).queues["waiting"].tolist() == [7]


def test_a_minute_weighs_each_sample_by_the_time_it_is_of():
    """
    Ten runs in half a second, then nothing for nine and a half: 10 in 10 s, not the mean of the two rates.
    """
    rows = [(0, 0.0), (500, 20.0), (10_000, 0.0)]
    start_ms = NOW.timestamp() * 1000 - 10_000
    sampled = [
        {"at": start_ms + ms, "queue": queue, "complete_per_s": rate, "failed_per_s": rate / 2}
        for ms, rate in rows
        for queue in ("a", "b")
    ]
    history = make_snapshot(history=sampled).history

    one, both = per_minute(history, NOW, "a"), per_minute(history, NOW)

    # the first sample is as long as they usually are: 5 s
    assert one.complete == pytest.approx(60 * 10 / 15)
    assert (both.complete, both.failed) == (
        pytest.approx(2 * one.complete),
        pytest.approx(one.complete),
    )


@pytest.mark.parametrize(
    ("died_ms", "expected"),
    [(NOW_MS - 13_000, ["Enqueued", "Dead letter", "Due", "Attempt 1: retrying"]),
     (NOW_MS - 3_100, ["Enqueued", "Dead letter", "Attempt 1: retrying"]),
     (NOW_MS - 1_000, ["Enqueued", "Due", "Attempt 1: retrying", "Dead letter"]),
     (0, ["Enqueued", "Due", "Attempt 1: retrying", "Dead letter"])],
)  # fmt: skip
def test_a_retry_tells_the_death_it_comes_from_before_its_own_attempts(died_ms, expected):
    """
    The order of the timeline is the order of time; a death at an unknown time is not put before anything.
    What was put off tells when it was due.
    """
    run = JobRun(
        job_id="j~r1", queue="async-processing", function="f", outcome=Outcome.RETRY, attempt=1, worker="w",
        enqueued_ms=int(NOW_MS - 29_000), due_ms=int(NOW_MS - 3_000), started_ms=int(NOW_MS - 3_000),
        finished_ms=int(NOW_MS - 2_000),
    )  # fmt: skip
    letter = DeadLetter(
        id="j", kind="job", source="async-processing", name="f", state=LetterState.RETRYING,
        reason="attempts", died_ms=int(died_ms), changed_ms=int(NOW_MS),
    )  # fmt: skip
    job = JobDetail(
        id="j~r1", queue="async-processing", state=JobState.FAILED, function="f", runs=(run,),
        enqueued_ms=int(NOW_MS - 29_000), letter=letter, arguments=Arguments(function="f"),
    )  # fmt: skip

    timeline = one_job._timeline(job, SimpleNamespace(now=NOW))
    assert re.findall(r"<b>([^<]*)</b>", timeline) == expected


def test_the_foot_tells_what_the_dashboard_costs():
    """
    Commands per second of the samples, how long they take, who looks, what is held; a notebook has no viewers.
    """
    rows = [{"at": NOW_MS + n, "queue": "a", "waiting": 1.0} for n in range(100)]
    snapshot = make_snapshot(
        history=rows, cost_commands=44, interval_s=2.0, cost_ms=3.0, cost_p95_ms=7.4
    )

    served = masthead.foot(snapshot, Settings(), viewers=3)
    alone = masthead.foot(snapshot, Settings(), viewers=1)
    notebook = masthead.foot(snapshot, Settings())

    told = re.findall(r"<span title[^>]*>([^<]*)</span>", served)
    held = sum(
        f.memory_usage(index=False).sum() for f in (snapshot.history, snapshot.stream_history)
    )
    assert told == ["22 Redis commands/s", "p95 7 ms", "3 viewers", f"history {palette.size(held)}"]
    assert held > 1_000
    assert ">1 viewer<" in alone
    assert "viewer" not in notebook


@pytest.mark.parametrize(("number", "boxes"), [(1, 1), (0, 0)])
def test_a_card_keeps_the_room_of_its_line_before_there_is_one(number, boxes):
    """The page would jump with the second sample; as of a moment no line ever comes."""
    html = cards(make_snapshot(queues=[make_queue()], number=number), may_act=False)

    assert html.count('class="spark-box"') == boxes
    assert '<svg class="spark"' not in html
