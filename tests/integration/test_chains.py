"""A job and the retries of its dead letter: every door tells the same state of each, at every step."""

import asyncio
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from arq.worker import func

from app import actions, keys
from app.actions import Connections
from app.api.application import create_api
from app.enqueue import JobRequest, enqueue
from app.errors import PermanentError
from app.jobs.chain import Link, link_of
from app.notebook import Scope, connect
from app.pages import one_job
from app.pages.address import Address
from app.pages.scene import Reach, Scene
from app.palette import JOB_LOOK
from app.payloads.codec import Codec
from app.records import JobState
from app.settings import Settings
from app.snapshot import Snapshot
from tests.letters import ANN, QUEUE, bury
from tests.waiting import until
from workers.engine.options import EngineOptions
from workers.engine.worker import Worker
from workers.retry_policy import RetryPolicy

LISTS = ("waiting", "deferred", "running", "complete", "failed")
ROOT, FIRST, SECOND = "order-7", "order-7~r1", "order-7~r2"


class Doors:
    """The ways people ask for a job: its page, the HTTP API, a notebook; one by one and as lists."""

    def __init__(self, connections: Connections, settings: Settings, scope: Scope) -> None:
        self.connections, self.settings, self.scope = connections, settings, scope
        runtime: Any = SimpleNamespace(settings=settings, connections=connections)
        api = create_api(runtime)

        async def as_ann(asked: Any, receive: Any, send: Any) -> None:
            asked.setdefault("state", {})["actor"] = ANN
            await api(asked, receive, send)

        transport = httpx.ASGITransport(app=as_ann)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://here")

    async def page(self, job_id: str) -> str:
        """The page of a job, as HTML."""
        address = Address("job", {"queue": QUEUE, "id": job_id})
        snapshot = Snapshot.empty()
        nothing: Any = None
        reach = Reach(connections=self.connections, settings=self.settings, snapshot=snapshot,
                      recall=nothing, ear=nothing)  # fmt: skip
        found = await one_job.load(reach, address)
        return str(one_job.PAGE.above(
            Scene(snapshot=snapshot, address=address, settings=self.settings, found=found)
        ))  # fmt: skip

    async def why(self, job_id: str) -> str:
        """The verdict's sentence."""
        answer = await self.http.get(f"/jobs/{QUEUE}/{job_id}/why")
        return str(answer.json()["sentence"])

    async def states(self, ids: list[str]) -> list[dict[str, str]]:
        """The state of each of *ids*, by door."""
        words = {look.word: state.value for state, look in JOB_LOOK.items()}
        page, http, notebook = {}, {}, {}
        for job_id in ids:
            title = (await self.page(job_id)).partition("</h1>")[2]
            said = re.sub(r"<[^>]*>", " ", title).split()[0]
            page[job_id] = words[said]
            http[job_id] = (await self.http.get(f"/jobs/{QUEUE}/{job_id}")).json()["state"]
            notebook[job_id] = (await asyncio.to_thread(self.scope.job, QUEUE, job_id)).state
        listed, framed = {}, {}
        for name in LISTS:
            answer = await self.http.get(f"/jobs/{QUEUE}?state={name}")
            listed |= _last({item["id"]: item for item in answer.json()["items"][::-1]}, name)
            frame = await asyncio.to_thread(lambda n=name: self.scope.jobs(QUEUE, state=n).df())
            framed |= _last({row["job_id"]: row for row in frame.to_dict("records")[::-1]}, name)
        return [page, http, notebook, listed, framed]


def _last(rows: dict[str, Any], name: str) -> dict[str, str]:
    """State by id; a run that failed and was tried again is no state of its job."""
    return {i: row["state"] for i, row in rows.items() if row["state"] != "failed"}


@pytest.fixture
async def doors(
    settings: Settings, queue_redis: Any, streams_redis: Any, cache_redis: Any
) -> AsyncIterator[Doors]:
    made = Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)
    scope = await asyncio.to_thread(connect, settings, sample_interval_s=60, keep_history=False)
    opened = Doors(made, settings, scope)
    yield opened
    await opened.http.aclose()
    await asyncio.to_thread(scope.close)


class Handler:
    """A function that dies twice for good, fails once, and then works when it is let."""

    def __init__(self) -> None:
        self.runs, self.go = 0, asyncio.Event()

    async def settle(self, ctx: dict[str, Any]) -> str:
        self.runs += 1
        if self.runs <= 2:
            raise PermanentError(f"no account, run {self.runs}")
        if self.runs == 3:
            raise ConnectionError("no route")
        await self.go.wait()
        return "settled"


@pytest.fixture
async def handler(settings: Settings) -> AsyncIterator[Handler]:
    """The handler, served by a worker that runs meanwhile."""
    handler = Handler()
    options = EngineOptions(url=settings.url("queue"), codec=Codec(), drain_s=5.0,
                            policy=RetryPolicy(attempts=3, base_s=900, cap_s=900))  # fmt: skip
    worker = Worker(
        functions=[func(handler.settle, name="settle")],  # type: ignore[arg-type]
        queue_name=QUEUE, handle_signals=False, burst=False, ctx={"arqscope": options},
    )  # fmt: skip
    running = asyncio.create_task(worker.main())
    yield handler
    handler.go.set()
    await worker.close()
    await asyncio.gather(running, return_exceptions=True)


async def test_each_job_of_a_chain_keeps_the_state_it_has_at_every_door(
    doors: Doors, handler: Handler, queue_redis: Any
):
    """
    The original and its first retry died; the second fails once, runs, and completes. Both dead ones stay
    dead at every door, offer nothing that only a waiting job can be asked for, and name the one after them.
    """
    redis, connections, settings = queue_redis, doors.connections, doors.settings

    async def is_open() -> bool:
        return await redis.zscore(keys.dead_open(QUEUE), ROOT) is not None

    async def told(expected: dict[str, str]) -> None:
        assert await doors.states(list(expected)) == [expected] * 5

    await enqueue(redis, QUEUE, JobRequest(name="settle", id=ROOT))
    await until(is_open)
    await told({ROOT: "dead"})

    await redis.sadd(keys.PAUSED_QUEUES, QUEUE)
    await actions.retry_letter(connections, settings, ANN, QUEUE, ROOT)
    await told({ROOT: "dead", FIRST: "queued"})
    assert await doors.why(ROOT) == f"it has ended, and its retry {FIRST} is under way"
    await redis.srem(keys.PAUSED_QUEUES, QUEUE)
    await until(is_open)
    await told({ROOT: "dead", FIRST: "dead"})

    await actions.retry_letter(connections, settings, ANN, QUEUE, ROOT)

    async def is_put_off() -> bool:
        return bool(await redis.hget(keys.attempts(QUEUE), SECOND)) and not await redis.hlen(
            keys.running(QUEUE)
        )

    await until(is_put_off)
    await told({ROOT: "dead", FIRST: "dead", SECOND: "retrying"})
    for died in (ROOT, FIRST):
        page = await doors.page(died)
        assert f'<code class="break">{SECOND}</code> is under way' in page
        assert ">Due again<" not in page
        assert await doors.why(died) == f"it has ended, and its retry {SECOND} is under way"
        assert not _offers(page, "Run now")
    assert _offers(await doors.page(SECOND), "Run now")

    await actions.promote_job(connections, settings, ANN, QUEUE, SECOND)
    await until(lambda: redis.hget(keys.running(QUEUE), SECOND))
    await told({ROOT: "dead", FIRST: "dead", SECOND: "running"})

    handler.go.set()

    async def is_resolved() -> bool:
        return await redis.hget(keys.dead_record(QUEUE, ROOT), "state") == "resolved"

    await until(is_resolved)
    await told({ROOT: "dead", FIRST: "dead", SECOND: "complete"})
    assert f"{SECOND}</code> ended well" in await doors.page(ROOT)
    assert (await doors.http.get(f"/jobs/{QUEUE}/{ROOT}")).json()["retried_as"] == SECOND


def _offers(page: str, word: str) -> bool:
    """Whether a button of that word can be pressed."""
    found = re.search(rf"<button[^>]*>(?:(?!</button>).)*{word}", page, re.DOTALL)
    assert found is not None
    return "disabled" not in found.group()


async def test_a_retry_that_was_cancelled_or_never_made_borrows_no_state(
    doors: Doors, queue_redis: Any
):
    """
    A cancelled retry is aborted, not dead; of one that was never made nobody knows anything.
    """
    await bury(queue_redis, ROOT)
    await queue_redis.sadd(keys.QUEUES, QUEUE)
    await actions.retry_letter(doors.connections, doors.settings, ANN, QUEUE, ROOT)
    await actions.cancel_job(doors.connections, doors.settings, ANN, QUEUE, FIRST)

    states = (await doors.states([ROOT, FIRST]))[:3]

    assert states == [{ROOT: "dead", FIRST: JobState.ABORTED.value}] * 3
    assert (await doors.http.get(f"/jobs/{QUEUE}/{SECOND}")).status_code == 404
    assert "nobody here knows" in await doors.why(SECOND)


@pytest.mark.parametrize(
    ("job_id", "root", "number"),
    [("a", "a", 0), ("a~r1", "a", 1), ("a~r12", "a", 12), ("a~r1~r2", "a~r1", 2), ("a~ready", "a~ready", 0),
     ("a~r", "a~r", 0), ("a~r\u0663", "a~r\u0663", 0), ("a~r" + "9" * 5000, "a~r" + "9" * 5000, 0)],
)  # fmt: skip
def test_only_the_end_of_an_id_makes_a_retry(job_id, root, number):
    assert link_of(job_id) == Link(root, number)
