"""Actions on dead letters, jobs and queues, on real Redis 7 and the embedded 6.2; and their audit."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app import actions, audit, keys
from app.actions import Connections
from app.enqueue import JobRequest, enqueue
from app.errors import ActionRefused, InvalidRequest, NotFound, UnknownFunction
from app.letters import redrive
from app.letters.redrive import POLICY, Shelf, Verdict, read_letter
from app.records import LetterState
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import start_redis
from tests.letters import (
    ANN,
    BOB,
    EVE,
    PAYLOAD,
    QUEUE,
    both_servers,
    bury,
    bury_event,
    places,
)


@pytest.fixture
def connections(queue_redis: Redis, streams_redis: Redis, cache_redis: Redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@both_servers
async def test_two_users_and_the_automatic_retry_make_one_job_each_time(connections, settings):
    """
    Two hundred letters, three presses at once on each: two hundred jobs.
    """
    redis = connections.queue
    shelf = Shelf(redis, QUEUE, "job")
    policy = Verdict(actor=POLICY, decision="RETRY", reason="rule", seen_redrives=0)
    for n in range(200):
        await bury(redis, f"j{n}")
        presses = [
            actions.retry_letter(connections, settings, ANN, QUEUE, f"j{n}"),
            actions.retry_letter(connections, settings, BOB, QUEUE, f"j{n}"),
            redrive.redrive(shelf, f"j{n}", policy),
        ]

        done = await asyncio.gather(*presses[n % 3 :], *presses[: n % 3])

        assert sum(report.changed for report in done) == 1

    assert await redis.zcard(QUEUE) == 200
    assert len([k async for k in redis.scan_iter("arq:job:*", count=1000)]) == 200
    assert await redis.hmget(keys.totals(QUEUE), "redriven", "accepted") == ["200", "200"]
    assert await redis.zcard(keys.dead_open(QUEUE)) == 0


@both_servers
async def test_a_retry_carries_the_very_bytes_and_keeps_its_root(connections, settings):
    redis = connections.queue
    await bury(redis, "j1")
    raw = connect(settings.url("queue"), decode_responses=False)
    before = hashlib.sha256(PAYLOAD).digest()

    for n in range(1, 21):
        report = await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")

        assert report.detail["id"] == f"j1~r{n}"
        sent = await raw.get(keys.arq_job(f"j1~r{n}"))
        assert hashlib.sha256(sent).digest() == before
        assert await redis.pttl(keys.arq_job(f"j1~r{n}")) == -1
        await redis.zrem(QUEUE, f"j1~r{n}")  # it died again
        await redis.zrem(keys.dead_retrying(QUEUE), "j1")
        await bury(redis, "j1", redrives=n)
    kept = await raw.get(keys.dead_payload(QUEUE, "j1"))
    await raw.aclose()

    assert hashlib.sha256(kept).digest() == before
    assert await redis.zcard(keys.dead_open(QUEUE)) == 1


@both_servers
async def test_a_dead_event_is_appended_again_once_with_its_raw_fields(connections, settings):
    redis, stream = connections.streams, settings.stream_name
    fields = await bury_event(redis, stream)
    presses = [actions.retry_letter(connections, settings, ANN, stream, "5-1") for _ in range(3)]

    done = await asyncio.gather(*presses)

    entries = await redis.xrange(stream)
    assert sorted(report.changed for report in done) == [False, False, True]
    assert [entry[1] for entry in entries] == [fields | {"redrivenFrom": "5-1"}]
    assert {report.detail["id"] for report in done} == {entries[0][0]}
    assert await places(redis, "5-1", stream) == ["retrying"]


@both_servers
async def test_a_discard_can_be_taken_back_for_a_day(connections, settings):
    redis = connections.queue
    await bury(redis, "j1")

    assert (await actions.discard_letter(connections, settings, ANN, QUEUE, "j1", "old")).changed
    assert await places(redis, "j1") == ["closed"]
    assert not (await actions.discard_letter(connections, settings, ANN, QUEUE, "j1")).changed
    with pytest.raises(ActionRefused, match="discarded"):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")
    assert (await actions.undo_discard(connections, settings, ANN, QUEUE, "j1")).changed
    assert await places(redis, "j1") == ["open"]
    await actions.archive_letter(connections, settings, ANN, QUEUE, "j1")
    await redis.hset(keys.dead_record(QUEUE, "j1"), "changed_ms", "1")
    with pytest.raises(ActionRefused, match="24 h"):
        await actions.undo_discard(connections, settings, ANN, QUEUE, "j1")


async def test_a_letter_without_payload_or_that_does_not_exist_is_not_retried(
    connections, settings
):
    await bury(connections.queue, "j1", payload=None)

    with pytest.raises(ActionRefused, match="payload is gone"):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")
    with pytest.raises(NotFound):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "nobody")
    with pytest.raises(NotFound):
        await actions.retry_letter(connections, settings, ANN, "nowhere", "j1")
    assert await places(connections.queue, "j1") == ["open"]


async def test_a_viewer_and_a_read_only_server_are_refused_and_audited(connections, settings):
    redis = connections.queue
    await bury(redis, "j1")
    read_only = settings.model_copy(update={"read_only": True})

    with pytest.raises(ActionRefused, match="operator"):
        await actions.retry_letter(connections, settings, EVE, QUEUE, "j1")
    with pytest.raises(ActionRefused, match="read-only"):
        await actions.retry_letter(connections, read_only, BOB, QUEUE, "j1")

    lines = await audit.recent(redis)
    assert [(line.actor, line.action) for line in lines] == [
        ("bob", "retry_letter"),
        ("eve", "retry_letter"),
    ]
    assert all("refused" in line.detail for line in lines)
    assert await places(redis, "j1") == ["open"]


@both_servers
async def test_the_audit_chain_shows_what_was_altered_removed_or_moved(connections):
    redis = connections.queue

    async def chain() -> list[str]:
        await redis.delete(keys.AUDIT)
        ids = await asyncio.gather(
            *(audit.record(redis, "ann", "act", f"t{n}", {"n": n, "ü": "\udc80"}) for n in range(9))
        )
        return sorted(ids, key=lambda i: tuple(map(int, i.split("-"))))

    await chain()
    assert (await audit.verify(redis)).ok
    assert (await audit.verify(redis)).lines == 9

    async def broken_by(change) -> audit.AuditReport:
        await change(await chain())
        return await audit.verify(redis)

    async def remove_middle(ids):
        await redis.xdel(keys.AUDIT, ids[4])

    async def remove_first(ids):
        await redis.xdel(keys.AUDIT, ids[0])

    async def remove_last(ids):
        await redis.xdel(keys.AUDIT, ids[-1])

    async def remove_last_and_go_on(ids):
        await redis.xdel(keys.AUDIT, ids[-1])
        await audit.record(redis, "ann", "act", "later", {})

    async def rewrite(change):
        rows = await redis.xrange(keys.AUDIT)
        await redis.delete(keys.AUDIT)
        for n, fields in enumerate(change([fields for _, fields in rows]), 1):
            await redis.xadd(keys.AUDIT, fields, id=f"{n}-1")

    async def alter(_):
        await rewrite(
            lambda r: [*r[:4], r[4] | {"body": r[4]["body"].replace("ann", "bob")}, *r[5:]]
        )

    async def reorder(_):
        await rewrite(lambda r: [*r[:3], r[4], r[3], *r[5:]])

    for change in (remove_middle, remove_first, remove_last, remove_last_and_go_on, alter, reorder):
        report = await broken_by(change)
        assert not report.ok, change.__name__
        assert report.problem


async def test_an_action_that_cannot_be_audited_does_not_happen(tmp_path: Path, free_port):
    server = start_redis(tmp_path)
    settings = Settings(
        redis_url=server.url, redis_streams_url=server.url, redis_queue_url=server.url
    )
    redis = connect(server.url)
    connections = Connections(queue=redis, streams=redis, cache=redis)
    await bury(redis, "j1")
    await redis.set(keys.AUDIT, "not a stream")

    with pytest.raises(Exception, match="WRONGTYPE"):
        await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")

    assert await places(redis, "j1") == ["open"]
    await redis.aclose()
    server.stop()


@both_servers
async def test_jobs_are_submitted_cancelled_aborted_and_promoted(connections, settings):
    redis = connections.queue
    await redis.zadd(keys.functions(QUEUE), {"sync": 1})
    requests = [JobRequest(name="sync", id="a"), JobRequest(name="sync", id="b", delay_s=3600)]

    made = await actions.submit_jobs(connections, settings, ANN, QUEUE, requests)
    again = await actions.submit_jobs(connections, settings, ANN, QUEUE, requests)

    assert [e.created for e in made + again] == [True, True, False, False]
    with pytest.raises(UnknownFunction):
        await actions.submit_jobs(connections, settings, ANN, QUEUE, [JobRequest(name="nope")])
    assert (await actions.promote_job(connections, settings, ANN, QUEUE, "b")).changed
    assert not (await actions.promote_job(connections, settings, ANN, QUEUE, "b")).changed
    assert (await actions.cancel_job(connections, settings, ANN, QUEUE, "b")).changed
    with pytest.raises(NotFound):
        await actions.cancel_job(connections, settings, ANN, QUEUE, "b")
    await redis.set(keys.arq_in_progress("a"), "w1", px=60_000)
    with pytest.raises(ActionRefused, match="running"):
        await actions.cancel_job(connections, settings, ANN, QUEUE, "a")
    assert (await actions.abort_job(connections, settings, ANN, QUEUE, "a")).changed
    assert await redis.zscore(keys.ARQ_ABORT, "a")


@both_servers
async def test_a_waiting_job_is_rescheduled_and_its_payload_outlives_it(connections, settings):
    """
    Later and sooner again; a payload that expires goes along; a running job is left alone.
    """
    redis = connections.queue
    await enqueue(redis, QUEUE, JobRequest(name="sync", id="a", expires_s=60))
    now_ms = int((await redis.time())[0]) * 1000

    async def move(job_id: str, delay_s: float) -> str:
        report = await actions.reschedule_job(connections, settings, ANN, QUEUE, job_id, delay_s)
        return str(report.detail["outcome"])

    assert await move("a", 7200) == "rescheduled"
    assert abs(await redis.zscore(QUEUE, "a") - now_ms - 7_200_000) < 10_000
    assert 7_250_000 < await redis.pttl(keys.arq_job("a")) <= 7_260_000
    assert await move("a", 60) == "rescheduled"
    assert abs(await redis.zscore(QUEUE, "a") - now_ms - 60_000) < 10_000
    assert await redis.pttl(keys.arq_job("a")) > 7_000_000
    assert await move("a", 0) == "rescheduled"
    assert await move("a", 0) == "due"
    await redis.set(keys.arq_in_progress("a"), "w1", px=60_000)
    assert await move("a", 60) == "running"
    with pytest.raises(NotFound):
        await move("nobody", 60)
    with pytest.raises(InvalidRequest, match="delay"):
        await move("a", float("nan"))


@both_servers
async def test_a_cancelled_job_is_a_closed_letter_that_can_be_taken_back(connections, settings):
    redis = connections.queue
    await enqueue(redis, QUEUE, JobRequest(name="sync", id="a", args=(7,), expires_s=60))
    payload = await redis.get(keys.arq_job("a"))
    await actions.abort_job(connections, settings, ANN, QUEUE, "a")

    shelf = Shelf(redis, QUEUE, "job")
    letter = await read_letter(shelf, "a")
    assert await places(redis, "a") == ["closed"]
    assert (letter.name, letter.reason, letter.decision) == ("sync", "aborted", "ABORT")
    assert (letter.state, letter.actor) == (LetterState.DISCARDED, ANN.name)
    assert await redis.get(keys.dead_payload(QUEUE, "a")) == payload
    assert await redis.ttl(keys.dead_payload(QUEUE, "a")) == -1
    assert not await redis.exists(keys.vault(QUEUE, "a"))
    assert await redis.hgetall(keys.totals(QUEUE)) == {"accepted": "1", "aborted": "1"}

    assert (await actions.undo_discard(connections, settings, ANN, QUEUE, "a")).changed
    assert (await actions.retry_letter(connections, settings, ANN, QUEUE, "a")).changed
    assert await redis.get(keys.arq_job("a~r1")) == payload
    totals = await redis.hgetall(keys.totals(QUEUE))
    # the law: accepted = queued + complete + dead + aborted - unaborted
    assert {name: int(totals[name]) for name in ("accepted", "dead", "aborted", "unaborted")} == {
        "accepted": 2,
        "dead": 1,
        "aborted": 1,
        "unaborted": 1,
    }


@both_servers
async def test_a_cancelled_retry_opens_its_letter_again(connections, settings):
    redis = connections.queue
    await bury(redis, "j1")
    await actions.retry_letter(connections, settings, ANN, QUEUE, "j1", delay_s=60)

    await actions.cancel_job(connections, settings, ANN, QUEUE, "j1~r1")

    assert await places(redis, "j1") == ["open"]
    assert await redis.exists(keys.arq_job("j1~r1")) == 0
    assert (await actions.retry_letter(connections, settings, ANN, QUEUE, "j1")).detail["id"] == (
        "j1~r2"
    )


async def test_queues_are_paused_resumed_sized_and_cleaned(connections, settings):
    redis = connections.queue

    assert (await actions.pause_queue(connections, settings, ANN, QUEUE)).changed
    assert not (await actions.pause_queue(connections, settings, ANN, QUEUE)).changed
    assert (await actions.resume_queue(connections, settings, ANN, QUEUE)).changed
    assert (await actions.set_concurrency(connections, settings, ANN, QUEUE, 7)).changed
    assert await redis.get(keys.concurrency(QUEUE)) == "7"
    requests = [JobRequest(name="x", id=f"x{n}", delay_s=n % 2 * 60) for n in range(6)]
    await actions.submit_jobs(connections, settings, ANN, QUEUE, requests)
    await bury(redis, "j1")
    cleaned = [
        (await actions.clean_queue(connections, settings, ANN, QUEUE, status)).detail["cleaned"]
        for status in ("waiting", "delayed", "failed", "completed")
    ]
    assert cleaned == [3, 3, 1, 0]
    assert await redis.zcard(QUEUE) == 0
    assert await places(redis, "j1") == ["closed"]
