"""The overview as a component: what it shows, what it never shows, what survives a refresh."""

import dataclasses
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from bokeh.document import Document

from app import actions, frames
from app.actions import ActionReport, Actor, Connections
from app.enqueue import Enqueued
from app.errors import ActionRefused, InvalidRequest
from app.pages import markup, submission
from app.pages.letters import PAGE_ROWS
from app.pages.overview import Overview
from app.pages.summary import held, per_minute, verdict
from app.palette import Verdict
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
        causes=frames.causes_frame(dead),
        history=frames.frame_of(history, frames.HISTORY_COLUMNS),
        **more,
    )


def make_overview(snapshot, *, role="operator", settings=None):
    nowhere = Connections(queue=None, streams=None, cache=None)
    collector = FakeCollector(snapshot)
    overview = Overview(
        collector, settings or Settings(), lambda: Actor(name="ann", role=role), nowhere
    )
    return overview, collector


def shown(overview):
    """All HTML of the page."""
    return "\n".join(section.html for section in overview._sections)


def words(html):
    """The text of *html*."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_known_numbers_are_shown_as_they_are():
    """
    1,248 jobs are 1,248, not 1.2 k.
    """
    overview, _ = make_overview(make_snapshot(queues=[make_queue()]))

    text = words(shown(overview))
    assert "Waiting 1,248" in text
    assert "10 of 10 slots busy" in text


def test_unknown_numbers_are_a_dash_with_a_reason():
    """
    Before the first sample nothing is zero.
    """
    overview, _ = make_overview(make_snapshot(number=0))

    strip = re.search(r"<nav.*?</nav>", shown(overview), re.S)[0]
    assert re.findall(r'class="figure"', strip) == []
    assert strip.count('class="unknown" title="not known') == 7
    assert "No dead letters" not in shown(overview)


def test_a_lost_redis_greys_the_last_known_numbers():
    """
    The values stay, the banner says since when and where, without a password.
    """
    overview, collector = make_overview(make_snapshot(queues=[make_queue()]))

    lost = make_snapshot(
        queues=[{"queue": "async-processing"}],
        problems={"queue": "redis://:***@host:6381/0: ConnectionError: refused"},
        stale_since={"queue": NOW - pd.Timedelta(seconds=12)},
    )
    collector.publish(lost)

    html = shown(overview)
    assert "1,248" in html
    assert 'class="strip stale"' in html
    assert "last answer 12 s ago" in html
    assert verdict(lost)[0] is Verdict.DOWN


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

    overview, _ = make_overview(snapshot)

    html = shown(overview)
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
    overview, collector = make_overview(make_snapshot(letters=letters))
    key = "async-processing/job-2"

    overview._handle({"intent": "choose", "letter": key, "checked": True})
    collector.publish(make_snapshot(letters=[make_letter(0), *letters]))

    html = overview._dead.html
    assert overview._letters.chosen == {key}
    assert re.findall(r'<tr data-key="async-processing/(job-\d)"', html) == [
        "job-1",
        "job-2",
        "job-3",
    ]
    assert re.search(r'data-letter="async-processing/job-2" checked', html)
    assert "1 selected" in html


def test_deselecting_lets_the_list_move_again():
    """
    The new letter comes in when nothing is selected.
    """
    letters = [make_letter(1)]
    overview, collector = make_overview(make_snapshot(letters=letters))
    choose = {"intent": "choose", "letter": "async-processing/job-1"}

    overview._handle({**choose, "checked": True})
    overview._handle({**choose, "checked": False})
    collector.publish(make_snapshot(letters=[make_letter(0), *letters]))

    assert 'data-key="async-processing/job-0"' in overview._dead.html


def test_a_row_that_is_not_shown_cannot_be_selected():
    """
    A message from a browser is not believed.
    """
    overview, _ = make_overview(make_snapshot(letters=[make_letter(1)]))

    overview._handle({"intent": "choose", "letter": "async-processing/other", "checked": True})

    assert overview._letters.chosen == set()


def test_letters_come_in_pages_and_by_cause():
    """
    Filters say how many they match.
    """
    letters = [make_letter(n, fingerprint="f1" if n < 12 else "f2") for n in range(14)]
    overview, _ = make_overview(make_snapshot(letters=letters))

    overview._handle({"intent": "turn", "by": "1"})
    second = overview._dead.html
    overview._handle({"intent": "cause", "fingerprint": "f2"})

    assert f"{PAGE_ROWS + 1}–14 of 14" in second  # noqa: RUF001
    assert "1–2 of 2" in overview._dead.html  # noqa: RUF001


async def test_retry_calls_the_action_with_the_actor(monkeypatch):
    """
    The button acts on the letter of its own row.
    """
    asked = []

    async def retry(connections, settings, actor, source, letter_id, delay_s=0):
        asked.append((actor.name, source, letter_id))
        return ActionReport(action="retry_letter", changed=True)

    monkeypatch.setattr(actions, "retry_letter", retry)
    overview, _ = make_overview(make_snapshot(letters=[make_letter(1)]))

    overview._handle({"intent": "retry", "letter": "async-processing/job-1"})
    for task in list(overview._tasks):
        await task

    assert asked == [("ann", "async-processing", "job-1")]
    assert "Retrying job-1" in words(overview._toast.html)


async def test_a_refused_action_is_said(monkeypatch):
    """
    Nothing fails silently.
    """

    async def refuse(*args):
        raise ActionRefused("its payload is gone")

    monkeypatch.setattr(actions, "discard_letter", refuse)
    overview, _ = make_overview(make_snapshot(letters=[make_letter(1)]))

    await overview._perform("discard", {"letter": "async-processing/job-1"})

    assert "Not done: its payload is gone" in words(overview._toast.html)


async def test_discarding_offers_undo(monkeypatch):
    """
    What can be taken back says so where it happened.
    """

    async def discard(*args):
        return ActionReport(action="discard_letter", changed=True)

    monkeypatch.setattr(actions, "discard_letter", discard)
    overview, _ = make_overview(make_snapshot(letters=[make_letter(1)]))

    await overview._perform("discard", {"letter": "async-processing/job-1"})

    assert 'data-intent="undo-discard"' in overview._toast.html
    assert 'data-letter="async-processing/job-1"' in overview._toast.html


def test_a_viewer_sees_everything_and_gets_no_control():
    """
    No button is made for whom it would not work.
    """
    snapshot = make_snapshot(queues=[make_queue()], letters=[make_letter(1)])
    overview, _ = make_overview(snapshot, role="viewer")

    html = shown(overview)
    assert "job-1" in html
    for intent in ("retry", "discard", "pause", "submit", "ask-abort"):
        assert f'data-intent="{intent}"' not in html


async def test_a_submitted_job_is_answered_where_it_was_asked(monkeypatch):
    """
    The accepted id is shown beside the button.
    """

    async def submit(connections, settings, actor, queue, requests, functions_known=None):
        assert requests[0].args == ({"n": 1},)
        return [Enqueued("j1", True)]

    monkeypatch.setattr(actions, "submit_jobs", submit)
    overview, _ = make_overview(make_snapshot(queues=[make_queue()]))

    await overview._submit({"queue": "async-processing", "name": "data-sync", "data": '{"n": 1}'})

    assert "Accepted data-sync as j1 on async-processing" in words(overview._form.html)


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
    assert submission.refused(caught.value).field == field


def test_the_component_renders_under_a_document():
    """
    The same object in a server session and in a notebook; stopping unsubscribes.
    """
    overview, collector = make_overview(make_snapshot(queues=[make_queue()]))
    document = Document()

    document.add_root(overview.__panel__().get_root(document))

    assert len(document.roots) == 1
    overview.stop()
    assert collector.callbacks == {}


def test_a_sample_streams_one_row():
    """
    Charts get the delta, not the hour.
    """
    row = {"at": NOW_MS, "queue": "async-processing", "complete_per_s": 2.0, "waiting": 5}
    overview, collector = make_overview(make_snapshot(queues=[make_queue()], history=[row]))
    source = overview._source

    rows = [row, {**row, "at": NOW_MS + 1000, "waiting": 6}]
    collector.publish(make_snapshot(queues=[make_queue()], history=rows))

    assert overview._source is source
    assert list(source.data["waiting:0"]) == [5, 6]


def test_nothing_new_sends_nothing():
    """
    The same snapshot twice changes no section.
    """
    snapshot = make_snapshot(queues=[make_queue()], letters=[make_letter(1)])
    overview, collector = make_overview(snapshot)
    changes = []
    for section in overview._sections:
        section.param.watch(changes.append, "html")

    collector.publish(snapshot)

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
    known, _ = make_overview(make_snapshot(queues=[make_queue(workers=0, slots=0, busy=0)]))
    unknown, _ = make_overview(make_snapshot(queues=[make_queue(workers=None)]))

    assert "no worker</span>" in shown(known)
    assert "no worker" not in words(unknown._upper.html)


def test_held_numbers_are_only_those_of_the_lost_source():
    """
    The rest goes on.
    """
    good = make_snapshot(queues=[make_queue()])
    now = make_snapshot(queues=[make_queue(waiting=7)], problems={"cache": "gone"})

    assert held(now, good).queues["waiting"].tolist() == [7]
