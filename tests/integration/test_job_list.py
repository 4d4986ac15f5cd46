"""Lists of jobs: filters find exactly what is there, windows are stated, memory stays bounded."""

import json
import pickle
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from app import frames, keys
from app.cursors import Place, by_score
from app.enqueue import JobRequest, enqueue_many
from app.errors import InvalidRequest
from app.jobs import lists
from app.jobs.lists import jobs_page
from app.jobs.rows import JobFilter, jobs_frame
from app.records import JobRun, Outcome
from app.settings import Settings

QUEUE = "async-processing"
BOTH = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


async def all_pages(redis: Redis, state: Any, limit: int = 20, **more: Any) -> list[str]:
    seen: list[str] = []
    cursor = None
    for _ in range(500):
        page = await jobs_page(redis, QUEUE, state, cursor, limit, **more)
        seen += [row.id for row in page.items]
        cursor = page.cursor
        if cursor is None:
            return seen
    raise AssertionError("no last page")


async def fill(redis: Redis, count: int = 300) -> None:
    requests = [
        JobRequest(
            name="mail" if n % 10 == 0 else "generic",
            id=f"j{n:04}",
            args=({"tenant": "Zoë" if n % 50 == 0 else n},),
        )
        for n in range(count)
    ]
    await enqueue_many(redis, QUEUE, requests)


@BOTH
async def test_filters_find_exactly_what_there_is(queue_redis: Redis) -> None:
    await fill(queue_redis)
    stock = {"t": None, "f": "mail", "a": ("Zoë",), "k": {}, "et": 1}
    await queue_redis.set(keys.arq_job("stock"), pickle.dumps(stock))
    await queue_redis.zadd(QUEUE, {"stock": 1_000})

    mails = await all_pages(queue_redis, "waiting", 7, wanted=JobFilter(function="mail"))
    texts = await all_pages(queue_redis, "waiting", wanted=JobFilter(text="Zoë"))
    both = await all_pages(queue_redis, "waiting", wanted=JobFilter(function="mail", text="j0250"))
    none = await all_pages(queue_redis, "waiting", wanted=JobFilter(function="nope"))
    early = await all_pages(queue_redis, "waiting", wanted=JobFilter(until_ms=2_000))

    assert mails == ["stock", *(f"j{n:04}" for n in range(0, 300, 10))]
    assert texts == ["stock", *(f"j{n:04}" for n in range(0, 300, 50))]
    assert both == ["j0250"]
    assert none == []
    assert early == ["stock"]


async def test_a_page_of_jobs_is_a_frame_with_what_each_job_carries(queue_redis: Redis) -> None:
    await fill(queue_redis, 2)
    await queue_redis.set(keys.arq_job("j0001"), b"neither pickle nor JSON")

    page = await jobs_page(queue_redis, QUEUE, "waiting")
    frame = jobs_frame(page.items)

    assert dict(frame.dtypes) == dict(frames.empty_frame(frames.JOB_COLUMNS).dtypes)
    assert frame["job_id"].to_list() == ["j0000", "j0001"]
    assert frame["function"].to_list() == ["mail", ""]
    assert json.loads(frame["arguments"].iloc[0]) == {"args": [{"tenant": "Zoë"}], "kwargs": {}}
    assert frame["note"].iloc[0] == ""
    assert frame["note"].iloc[1]
    assert frame["started"].isna().all()


async def test_a_window_that_ends_is_said_and_the_cursor_goes_on(
    queue_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "WINDOW", 100)
    monkeypatch.setattr(lists, "STRETCH", 40)
    await fill(queue_redis)
    wanted = JobFilter(text="j0250")

    first = await jobs_page(queue_redis, QUEUE, "waiting", wanted=wanted)
    everything = await all_pages(queue_redis, "waiting", wanted=wanted)

    assert (first.items, first.scanned, first.partial) == ([], 100, True)
    assert first.cursor is not None
    assert "100 waiting jobs" in first.window
    assert everything == ["j0250"]


async def test_where_scripts_are_forbidden_the_list_still_works(
    queue_redis: Redis, settings: Settings
) -> None:
    from app.wire.connections import connect

    await fill(queue_redis)
    await queue_redis.execute_command(
        "ACL",
        "SETUSER",
        "looker",
        "on",
        ">pw",
        "~*",
        "+@read",
        "+@connection",
        "+time",
        "-@scripting",
    )
    url = settings.url("queue").replace("://:test-password@", "://looker:pw@")
    looker = connect(url)

    found = await all_pages(looker, "waiting", wanted=JobFilter(function="mail"))
    await looker.aclose()
    await queue_redis.execute_command("ACL", "DELUSER", "looker")

    assert found == [f"j{n:04}" for n in range(0, 300, 10)]


async def test_ended_jobs_are_found_by_error_function_and_time(queue_redis: Redis) -> None:
    now = int(time.time() * 1000)
    for n in range(60):
        run = JobRun(
            job_id=f"r{n}", queue=QUEUE, function="mail" if n % 2 else "sync", attempt=1, worker="w",
            outcome=Outcome.ABORTED if n % 5 == 0 else Outcome.DEAD, enqueued_ms=now, due_ms=now,
            started_ms=now, finished_ms=now, error="Timeout: x" if n % 3 == 0 else "ValueError",
        )  # fmt: skip
        await queue_redis.xadd(
            keys.runs(QUEUE), {"r": run.to_json()}, id=f"{now - 60_000 + n * 1000}-0"
        )

    failed = await all_pages(queue_redis, "failed", 7)
    timeouts = await all_pages(queue_redis, "failed", 5, wanted=JobFilter(error="Timeout"))
    mails = await all_pages(queue_redis, "failed", wanted=JobFilter(function="mail", text="r1"))
    aborted = await all_pages(queue_redis, "aborted", 3)
    of_late = await jobs_page(
        queue_redis, QUEUE, "aborted", wanted=JobFilter(since_ms=now - 11_000)
    )

    assert failed == [f"r{n}" for n in range(59, -1, -1) if n % 5]
    assert timeouts == [f"r{n}" for n in range(59, -1, -1) if n % 5 and n % 3 == 0]
    assert mails == [f"r{n}" for n in (19, 17, 13, 11, 1)]
    assert aborted == [f"r{n}" for n in range(55, -1, -5)]
    assert [row.id for row in of_late.items] == ["r55", "r50"]
    assert "10,000 are kept" in of_late.window


async def test_a_huge_payload_is_never_read_whole(queue_redis: Redis) -> None:
    """
    R16: a 64 MB value in the queue costs a page no more than its first bytes.
    """
    await queue_redis.set(keys.arq_job("huge"), "j1:" + "x" * 64_000_000)
    await queue_redis.zadd(QUEUE, {"huge": 1})
    before = (await queue_redis.info("stats"))["total_net_output_bytes"]

    page = await jobs_page(queue_redis, QUEUE, "waiting")
    found = await jobs_page(queue_redis, QUEUE, "waiting", wanted=JobFilter(text="yyy"))

    after = (await queue_redis.info("stats"))["total_net_output_bytes"]
    await queue_redis.delete(keys.arq_job("huge"))
    assert page.items[0].arguments.size_bytes > 64_000_000
    assert found.items == []
    assert after - before < 100_000


@pytest.mark.parametrize(
    "wanted", [JobFilter(), JobFilter(function="mail")], ids=["all", "filtered"]
)
async def test_who_pages_while_jobs_go_and_come_misses_none_and_sees_none_twice(
    queue_redis: Redis, monkeypatch: pytest.MonkeyPatch, wanted: JobFilter
) -> None:
    """
    Jobs of one list share a millisecond; workers take those of the pages already read.
    """
    monkeypatch.setattr(lists, "STRETCH", 7)
    jobs = [JobRequest(name="mail", id=f"j{n:04}") for n in range(200)]
    await enqueue_many(queue_redis, QUEUE, jobs)
    for job in jobs:
        await queue_redis.zadd(QUEUE, {job.id: 1_700_000_000_000})
    seen: list[str] = []
    cursor = None
    while True:
        page = await jobs_page(queue_redis, QUEUE, "waiting", cursor, 20, wanted=wanted)
        seen += [row.id for row in page.items]
        cursor = page.cursor
        if cursor is None:
            break
        taken = [seen[-1], *seen[: len(seen) // 2]]  # the last one seen is gone, too
        await queue_redis.zrem(QUEUE, *taken)
        new = JobRequest(name="mail", id=f"a{len(seen):04}")  # sorts before all that are left
        await enqueue_many(queue_redis, QUEUE, [new])
        await queue_redis.zadd(QUEUE, {new.id: 1_700_000_000_000})

    assert seen == [job.id for job in jobs]


async def test_a_place_in_a_set_is_found_again_from_either_side(queue_redis: Redis) -> None:
    members = {f"m{n:02}": 5.0 if n < 15 else 6.0 for n in range(30)}
    await queue_redis.zadd("places", {**members, "low": 1.0, "high": 9.0})

    for newest in (False, True):
        seen: list[str] = []
        cursor = None
        while True:
            pairs, cursor = await by_score(
                queue_redis, "places", "-inf", "+inf", cursor, 4, newest=newest
            )
            seen += [member for member, _ in pairs]
            if cursor is None:
                break
            await queue_redis.zrem("places", *seen)
        told = ["low", *sorted(members), "high"]
        assert seen == (told[::-1] if newest else told)
        await queue_redis.zadd("places", {**members, "low": 1.0, "high": 9.0})


def test_a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() -> None:
    for place in (
        Place(1_700_000_000_000.0, "id with blanks: and more"),
        Place(-1.5, "x"),
        Place(7.0, "", 12),
    ):
        assert Place.parse(place.cursor()) == place
    assert Place.parse(Place(7.0, "Zoë", 12).cursor()) == Place(7.0, "", 12)
    for text in (
        "",
        "7",
        "7:",
        "7 ",
        "a:1",
        "7:²",
        "²:7",
        "7 \n",
        "7:1 x",
        "nan:1",
        "7:" + "1" * 10,
    ):
        with pytest.raises(InvalidRequest):
            Place.parse(text)
