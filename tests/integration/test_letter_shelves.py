"""Dead letters of every source on every server as one list: in order, each once, whatever happens meanwhile."""

import random
from collections.abc import AsyncIterator, Iterator

import pytest

from app import keys
from app.errors import InvalidRequest, RedisUnavailable
from app.letters import shelves
from app.letters.filters import LetterFilter
from app.letters.shelves import Place, letters_of_all
from app.records import DeadLetter
from app.settings import Settings
from app.wire.connections import Connections
from tests.conftest import RunningRedis, start_redis
from tests.letters import bury, bury_many

HOME_QUEUE, AWAY_QUEUE, STREAM = "async-processing", "reports-daily", "pyairtable-events"
ALL = LetterFilter()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("second"))
    yield server
    server.stop()


@pytest.fixture
async def connections(settings: Settings, second: RunningRedis) -> AsyncIterator[Connections]:
    if second.process is None:
        second.start()
    given = settings.model_dump() | {"redis_queue_shards": f"reports-*={second.url}"}
    made = Connections.of(Settings(**given))
    await made.server("queue-2").flushall()
    yield made
    await made.close()


async def buried(connections: Connections, moments: dict[str, list[int]]) -> list[tuple[str, str]]:
    """Bury a letter of each source at each moment; their (source, id) as a list must show them."""
    for source, at in moments.items():
        redis = connections.streams if source == STREAM else connections.holding(source)
        await redis.sadd(keys.QUEUES, *([source] if source != STREAM else ["unused"]))
        names = [f"{source[0]}{number}" for number in range(len(at))]
        random.Random(7).shuffle(names)
        kind = "event" if source == STREAM else "job"
        await bury_many(
            redis, names, source=source, kind=kind, died_ms=lambda n, at=at: at[n], payload=None
        )
    rows = [
        (-ms, source, name)
        for source, at in moments.items()
        for ms, name in zip(at, _names(source, at), strict=True)
    ]
    # as Redis walks one set from the back: equal ms by the id, the last first
    rows.sort(key=lambda row: (row[0], row[1], [-ord(c) for c in row[2]] + [1]))
    return [(source, name) for _, source, name in rows]


def _names(source: str, at: list[int]) -> list[str]:
    names = [f"{source[0]}{number}" for number in range(len(at))]
    random.Random(7).shuffle(names)
    return names


def moments(seed: int, each: int) -> dict[str, list[int]]:
    """Few moments for many letters: most share their ms with others."""
    chosen = random.Random(seed)
    return {
        source: [1_000_000 + chosen.randrange(each // 2) for _ in range(each)]
        for source in (HOME_QUEUE, AWAY_QUEUE, STREAM)
    }


async def paged(
    connections: Connections, limit: int, wanted: LetterFilter = ALL
) -> list[tuple[str, str]]:
    shown: list[DeadLetter] = []
    cursor = None
    while True:
        page = await letters_of_all(connections, [HOME_QUEUE], [STREAM], wanted, cursor, limit)
        assert len(page.items) <= limit
        assert page.window == ""
        shown += page.items
        if page.cursor is None:
            return [(letter.source, letter.id) for letter in shown]
        assert len(page.items) == limit or page.partial
        cursor = page.cursor


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_pages_of_any_size_show_each_letter_once_in_order(connections, seed):
    """
    Two queues on two servers and a stream, many letters of one ms; filtered ones look through more.
    """
    expected = await buried(connections, moments(seed, 30))
    for limit in (1, 2, 7, 30, 90, 91):
        assert await paged(connections, limit) == expected
    odd = [(source, name) for source, name in expected if "7" in name]
    assert await paged(connections, 2, LetterFilter(text="7")) == odd


async def test_a_walk_that_looked_at_enough_says_so_and_goes_on(connections, monkeypatch):
    """
    What matches lies far back on one shelf: the list waits for it, and keeps the order.
    """
    monkeypatch.setattr(shelves, "MAX_SCANNED", 1_000)
    home, away = connections.queue, connections.holding(AWAY_QUEUE)
    await home.sadd(keys.QUEUES, HOME_QUEUE)
    await away.sadd(keys.QUEUES, AWAY_QUEUE)
    many = [f"n{number}" for number in range(2_500)]
    await bury_many(home, many, source=HOME_QUEUE, died_ms=lambda n: 10_000 + n, payload=None)
    await bury(home, "wanted-old", source=HOME_QUEUE, died_ms=9_000, payload=None)
    for name, ms in (("wanted-new", 12_400), ("wanted-mid", 10_500), ("wanted-last", 8_000)):
        await bury(away, name, source=AWAY_QUEUE, died_ms=ms, payload=None)

    wanted = LetterFilter(text="wanted")
    first = await letters_of_all(connections, [], [], wanted, None, 10)
    assert (first.partial, [letter.id for letter in first.items]) == (True, ["wanted-new"])
    shown = [name for _, name in await paged(connections, 10, wanted)]
    assert shown == ["wanted-new", "wanted-mid", "wanted-old", "wanted-last"]


async def test_a_page_goes_on_where_it_was_though_letters_come_and_go(connections):
    """
    New ones in front change nothing; the cursor's own letter may be gone, and no other is shown again.
    """
    expected = await buried(connections, {HOME_QUEUE: [50, 50, 50, 40], AWAY_QUEUE: [50, 50, 30]})
    first = await letters_of_all(connections, [], [], ALL, None, 2)
    (source, last) = expected[1]
    assert first.items[-1].id == last
    await connections.holding(source).zrem(keys.dead_open(source), last)
    await bury(connections.queue, "new", source=HOME_QUEUE, died_ms=60, payload=None)

    rest = await letters_of_all(connections, [], [], ALL, first.cursor, 50)

    assert [(letter.source, letter.id) for letter in rest.items] == expected[2:]
    again = await letters_of_all(
        connections, [], [], ALL, "40", 50
    )  # a moment alone: all from it on
    assert [letter.died_ms for letter in again.items] == [40, 30]


async def test_a_server_that_is_away_is_left_out_and_said(connections, second):
    await buried(connections, {HOME_QUEUE: [5, 3], AWAY_QUEUE: [4], STREAM: [2]})
    second.kill()

    page = await letters_of_all(connections, [HOME_QUEUE], [STREAM], ALL, None, 2)

    assert [letter.died_ms for letter in page.items] == [5, 3]
    assert page.window == "without queue-2: no answer from there"
    second.start()
    back = await letters_of_all(connections, [HOME_QUEUE], [STREAM], ALL, page.cursor, 5)
    assert ([letter.died_ms for letter in back.items], back.window) == ([2], "")


async def test_when_no_server_answers_it_is_an_error(connections, settings, free_port):
    url = f"redis://127.0.0.1:{free_port}/0"
    given = settings.model_dump() | {"redis_queue_url": url, "redis_streams_url": url}
    nowhere = Connections.of(Settings(**given))
    with pytest.raises(RedisUnavailable):
        await letters_of_all(nowhere, [HOME_QUEUE], [STREAM], ALL)
    await nowhere.close()


@pytest.mark.parametrize("cursor", ["x", "5:3", "-1", "5 queue", "5  id", "9" * 17, "٣"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        Place.parse(cursor)


def test_ids_sort_as_redis_walks_them() -> None:
    """
    Equal moments: sources by name; of one source the last byte string first, as ZREVRANGE has them.
    """
    ids = ["a", "ab", "b", "", "é", "a b"]
    places = [Place(1, "q", name) for name in ids]
    in_order = [place.id for place in sorted(places, key=lambda place: place.order)]
    assert in_order == ["", *sorted(filter(None, ids), key=str.encode, reverse=True)]
    assert Place.parse("7 q a b") == Place(7, "q", "a b")
