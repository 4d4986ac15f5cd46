"""The course of causes: deaths as they were counted, retries as they ended, nothing made up."""

import math
import time
from typing import Any

import pandas as pd
import pytest

from app import keys
from app.actions import Connections
from app.courses import HOURS, courses
from app.frames import TALLY_COLUMNS, empty_frame
from app.letters import causes
from app.letters.tallies import read_tallies, tallies_frame
from app.records import LetterState
from tests.letters import QUEUE, bury

HOUR_MS = 3_600_000


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


async def close(connections: Connections, letter_id: str, redrives: int, **more: Any) -> None:
    """A letter whose last retry ended well."""
    await bury(
        connections.queue, letter_id, fingerprint="f", state=LetterState.RESOLVED,
        redrives=redrives, **more,
    )  # fmt: skip
    await connections.queue.zrem(keys.dead_open(QUEUE), letter_id)
    await connections.queue.zadd(keys.dead_closed(QUEUE), {letter_id: 1})


async def test_deaths_are_those_counted_and_odds_those_of_ended_retries(connections):
    """
    Two resolved letters, one of which needed two retries, and one that died again: two of four.
    """
    queue = connections.queue
    now_ms = int(time.time() * 1000)
    long_ago = [
        await bury(queue, f"o{n}", fingerprint="f", died_ms=now_ms - 2 * HOUR_MS) for n in range(3)
    ]
    lately = [await bury(queue, "again", fingerprint="f", redrives=1)]
    await causes.note_deaths(queue, [*long_ago, *lately], now_ms)
    await close(connections, "well", 1)
    await close(connections, "well-later", 2)
    await bury(queue, "other", fingerprint="g", redrives=5)

    found = (await courses(connections, "events", [QUEUE], ["f", "g"]))["f"]

    assert len(found.deaths) == HOURS
    assert (sum(found.deaths), max(found.deaths)) == (4, 3)
    assert (found.retries, found.ended_well, found.odds) == (4, 2, 0.5)
    assert 0 < found.low < 0.5 < found.high < 1


async def test_what_nobody_counted_or_retried_is_unknown(connections):
    """
    A cause the processor has not counted yet has no deaths to show; a letter under way no odds.
    """
    await bury(connections.queue, "j", fingerprint="f")
    await bury(
        connections.queue, "k", fingerprint="f", redrives=1, state=LetterState.RETRYING
    )  # fmt: skip

    found = await courses(connections, "events", [QUEUE], ["f", "unheard"])

    assert found["f"].deaths == found["unheard"].deaths == ()
    assert found["f"].retries == 0
    assert math.isnan(found["f"].odds)
    assert await courses(connections, "events", [QUEUE], []) == {}


async def test_tallies_are_what_the_counters_say_and_no_more(connections):
    """
    Deaths noted by the processor lie in their periods; a cause it never counted has no number at all.
    """
    queue = connections.queue
    now_ms = int(time.time() * 1000)
    died = [now_ms - 1_000, now_ms - 5 * HOUR_MS, now_ms - 30 * HOUR_MS, now_ms - 100 * HOUR_MS]
    noted = [await bury(queue, f"t{n}", fingerprint="f", died_ms=ms) for n, ms in enumerate(died)]
    await causes.note_deaths(queue, noted, now_ms)
    await bury(queue, "uncounted", fingerprint="g")

    found = await read_tallies(queue, ["f", "g"], is_counting=True)
    idle = await read_tallies(queue, ["f"], is_counting=False)

    for tally, true in zip(found["f"], (1, 1, 2, 3, 4), strict=True):
        assert tally.low <= true <= tally.high
    assert {tally.note for tally in found["g"]} == {"its deaths are not counted yet"}
    assert {tally.high for tally in idle["f"]} == {None}
    frame = tallies_frame(
        pd.DataFrame({"fingerprint": ["f", "g"], "error_type": "E", "functions": ""}), found
    )
    assert frame["period"].to_list() == ["1h", "3h", "24h", "3d", "7d"] * 2
    assert frame.loc[frame["fingerprint"] == "g", "deaths"].isna().all()
    assert dict(frame.dtypes) == dict(empty_frame(TALLY_COLUMNS).dtypes)
    assert await read_tallies(queue, [], is_counting=True) == {}
