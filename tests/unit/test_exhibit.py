"""Exhibits: one document for all who see the same plot, its changes told as text; and the wire they go out by."""

import asyncio
import json
from types import SimpleNamespace

import pandas as pd
import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource

from app.pages.exhibit import MAX_CHANGES, MAX_EXHIBITS, Exhibits
from app.pages.gallery import Plot
from app.pages.screen import Screen
from app.pages.wire import Wire
from tests.unit.test_pages import NOW, make_queue, make_snapshot
from tests.unit.test_plots import QUEUE, FakeRecall

PLOT = Plot(charts=("backlog", "throughput"), names=(QUEUE,))


def at(second, waiting=1.0):
    """A snapshot whose newest sample was taken *second* after NOW."""
    ms = (NOW + pd.Timedelta(seconds=second)).timestamp() * 1000
    rows = [
        {"at": ms - 1000 * n, "queue": QUEUE, "waiting": waiting} for n in range(second, -1, -1)
    ]
    return make_snapshot(queues=[make_queue()], history=rows, number=second + 1)


def plainly(_, make):
    return make()


def exhibit_of(plot=PLOT, moment="", workers=None, among=None):
    return (among or Exhibits(1.0, FakeRecall())).of(plot, moment, workers)


def whole_of(exhibit):
    """The document a newcomer has."""
    text, changes = exhibit.whole()
    document = Document.from_json(json.loads(text))
    for change in json.loads(changes):
        document.apply_json_patch(change)
    return document


def rows_of(document):
    source = document.select_one({"name": "history"})
    assert isinstance(source, ColumnDataSource)
    return list(source.data["at"]), list(source.data["waiting:0"])


def test_a_viewer_who_follows_has_what_one_who_comes_has():
    """
    The first text and the changes after it are the same as the whole text later.
    """
    exhibit = exhibit_of()
    exhibit.show(PLOT, at(0), plainly)
    follower, had = whole_of(exhibit), exhibit.count
    for second in (1, 2, 3):
        exhibit.show(PLOT, at(second, waiting=float(second)), plainly)

    for change in json.loads(exhibit.since(had)):
        follower.apply_json_patch(change)
    newcomer = whole_of(exhibit)
    for second in range(4, MAX_CHANGES + 6):  # what the first text lacks is not kept any more
        exhibit.show(PLOT, at(second, waiting=float(second)), plainly)
    latest = whole_of(exhibit)

    assert rows_of(follower) == rows_of(newcomer)
    assert len(rows_of(follower)[0]) == 4
    assert rows_of(latest)[1][-1] == MAX_CHANGES + 5
    assert len(rows_of(latest)[0]) == MAX_CHANGES + 6
    assert [root.name for root in follower.roots] == ["backlog", "throughput"]


def test_a_sample_is_one_change_however_many_look():
    exhibit = exhibit_of()
    exhibit.show(PLOT, at(0), plainly)
    had, snapshot = exhibit.count, at(1)

    for _ in range(60):
        exhibit.show(PLOT, snapshot, plainly)

    assert exhibit.count == had + 1


def test_who_is_too_far_behind_is_given_the_whole():
    exhibit = exhibit_of()
    exhibit.show(PLOT, at(0), plainly)
    had = exhibit.count
    for second in range(1, MAX_CHANGES + 2):
        exhibit.show(PLOT, at(second), plainly)

    assert exhibit.since(had) is None
    assert len(json.loads(exhibit.since(had + 1))) == MAX_CHANGES
    assert exhibit.since(exhibit.count) == "[]"


def test_an_exhibit_is_shared_by_those_who_see_the_same_only():
    among = Exhibits(1.0, FakeRecall())
    one = exhibit_of(among=among)

    assert exhibit_of(among=among) is one
    others = [
        exhibit_of(Plot(charts=("backlog",), names=(QUEUE,)), among=among),
        exhibit_of(Plot(charts=PLOT.charts, names=("another",)), among=among),
        exhibit_of(moment="2026-11-23T11:00:00Z", among=among),
        exhibit_of(workers=4.0, among=among),
    ]
    assert one not in others
    assert len({id(other) for other in others}) == 4


def test_exhibits_nobody_asked_for_lately_are_let_go():
    among = Exhibits(1.0, FakeRecall())
    one = exhibit_of(among=among)
    for number in range(MAX_EXHIBITS):
        exhibit_of(workers=float(number), among=among)

    assert exhibit_of(among=among) is not one


async def test_what_is_read_of_the_past_is_told_to_those_who_look():
    """
    Stored minutes arrive after the first text: lookers are called, and the next look has them.
    """
    exhibit = exhibit_of()
    looks = []

    class Person:
        def look(self):
            looks.append(True)

    person, gone = Person(), Person()
    exhibit.join(person)
    exhibit.join(gone)
    exhibit.leave(gone)
    exhibit.show(PLOT, at(0), plainly)
    had = exhibit.count

    await asyncio.gather(*exhibit._tasks)
    exhibit.show(PLOT, at(0), plainly)

    assert looks == [True]
    assert len(json.loads(exhibit.since(had))) == 1
    whole = whole_of(exhibit)
    assert len(rows_of(whole)[0]) > 1


class Socket:
    """Takes messages when it is let."""

    def __init__(self):
        self.free = asyncio.Event()
        self.free.set()
        self.told = []

    async def send_message(self, message):
        await self.free.wait()
        content = json.loads(message.content_json)
        assert json.loads(message.header_json)["msgtype"] == "PATCH-DOC"
        [event] = content["events"]
        [(_, model), (_, data)] = event["msg_data"]["values"]["entries"]
        self.told.append((model["id"], dict(zip(data[::2], data[1::2], strict=True))))


def served_screen(socket, **parts):
    """A screen as its browser got it, the id of its model, and how often the browser took everything."""
    taken, document = [], Document()
    screen = Screen(served=True)
    screen.put(title="one", place="queues", **parts)
    component = screen.get_root(document)
    document.add_root(component)
    session = SimpleNamespace(
        connection_count=1, _subscribed_connections=[SimpleNamespace(_socket=socket)]
    )
    context = SimpleNamespace(session=session)
    document._session_context = lambda: context
    screen.wire = Wire(document, lambda: taken.append(True))
    return screen, component.id, taken


async def let_go(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_browser_is_told_what_is_different_from_what_it_has():
    """
    Nothing before it said hello; then what changed since its document, and each change once.
    """
    socket = Socket()
    screen, model_id, _ = served_screen(socket, head="<b>", above="same")
    screen.greet(screen.edition)

    screen.put(title="two", place="queues", head="<i>", above="same", charts={"changes": "[]"})
    await let_go()
    screen.put(title="two", place="queues", head="<i>", above="same")
    await let_go()

    said = {"title": "two", "head": "&lt;i&gt;", "changes": "[]"}
    assert socket.told == [(model_id, said)]


@pytest.mark.parametrize("edition", [1, None, "2", 99])
async def test_a_browser_that_missed_an_edition_is_told_everything(edition):
    """
    What is set between the document's departure and hello never arrives; a hello that is repeated says nothing.
    """
    socket = Socket()
    screen, _, _ = served_screen(socket, head="b", above="listening")
    screen.put(title="t", place="pubsub", head="b", above="heard")
    screen.greet(edition)

    screen.put(title="t", place="pubsub", head="b", above="heard", dialog="")
    await let_go()

    ((_, said),) = socket.told
    assert said == {"title": "t", "place": "pubsub", "head": "b", "above": "heard", "dialog": ""}
    assert screen.edition == 2


async def test_who_does_not_take_what_they_were_told_is_told_no_more_until_then():
    """
    One message waits for a browser that has stopped reading, not one a second; then it gets the newest.
    """
    socket = Socket()
    screen, _, taken = served_screen(socket, head="0")
    screen.greet(screen.edition)
    socket.free.clear()

    assert screen.put(title="one", place="queues", head="1")
    await let_go()
    assert not screen.put(title="one", place="queues", head="2")
    assert not screen.put(title="one", place="queues", head="3")
    assert taken == []
    socket.free.set()
    await let_go()
    assert taken == [True]
    assert screen.put(title="one", place="queues", head="3")
    await let_go()

    assert [said for _, said in socket.told] == [{"head": "1"}, {"head": "3"}]
