"""How each hazard of queues and streams is planted."""

from collections.abc import Awaitable, Callable

from app import keys
from tests.integration.doctor.conftest import GROUP, QUEUE, STREAM, Clinic

Plant = Callable[[Clinic], Awaitable[None]]


async def stale_abort(c: Clinic) -> None:
    await c.queue.zadd(keys.ARQ_ABORT, {"gone": c.now_ms - 2 * 3_600_000})


async def stale_abort_of_a_waiting_job(c: Clinic) -> None:
    await c.job("again")
    await c.queue.zadd(keys.ARQ_ABORT, {"again": c.now_ms - 2 * 3_600_000})


async def result_forever(c: Clinic) -> None:
    await c.queue.set(keys.arq_result("for-ever"), b"{}")


async def result_of_a_waiting_job(c: Clinic) -> None:
    await c.job("again")
    await c.queue.set(keys.arq_result("again"), b"{}", px=60_000)


async def payload_gone(c: Clinic) -> None:
    await c.job("empty", left_ms=0)


async def payload_ends(c: Clinic) -> None:
    await c.job("soon", left_ms=60_000)


async def stock_beside_ours(c: Clinic) -> None:
    await c.worker()
    await c.job("taken")
    await c.queue.set(keys.arq_in_progress("taken"), b"1", px=300_000)


async def no_timeout(c: Clinic) -> None:
    await c.job("endless")
    await c.queue.set(keys.arq_in_progress("endless"), b"1", px=9_000)


async def starved(c: Clinic) -> None:
    for number in range(110):
        await c.job(f"long-{number:03}", due_ms=c.now_ms - 10_000 + number)
        await c.queue.set(keys.arq_in_progress(f"long-{number:03}"), b"1", px=600_000)
    await c.job("behind", due_ms=c.now_ms - 100)


async def stock_health(c: Clinic) -> None:
    await c.queue.set(f"{QUEUE}:health-check", "Nov-26 j_complete=0", px=3_601_000)


async def nobody(c: Clinic) -> None:
    await c.job("waits", due_ms=c.now_ms - 60_000)


async def paused(c: Clinic) -> None:
    await c.job("waits", due_ms=c.now_ms - 60_000)
    await c.queue.sadd(keys.PAUSED_QUEUES, QUEUE)


async def backlog(c: Clinic) -> None:
    await c.worker(busy=5)
    await c.job("waits", due_ms=c.now_ms - 120_000)


async def stuck(c: Clinic) -> None:
    await c.worker(busy=0)
    await c.job("waits", due_ms=c.now_ms - 120_000)


async def two_versions(c: Clinic) -> None:
    await c.worker()
    await c.worker(id="w2", version="2")


async def trouble(c: Clinic) -> None:
    await c.worker(trouble="its lease thread is dead")


async def many_letters(c: Clinic) -> None:
    await c.queue.zadd(keys.dead_open(QUEUE), {f"d{n}": c.now_ms for n in range(90)})


async def foreign(c: Clinic) -> None:
    await c.job("ours")
    await c.queue.sadd(keys.FOREIGN, "arq:queue")


async def add(c: Clinic, count: int) -> list[str]:
    return [str(await c.streams.xadd(STREAM, {"type": "a.b", "data": "{}"})) for _ in range(count)]


async def no_group(c: Clinic) -> None:
    await add(c, 1)


async def trimmed_unread(c: Clinic) -> None:
    await add(c, 10)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xtrim(STREAM, maxlen=2, approximate=False)
    if (
        not (await c.streams.xinfo_stream(STREAM))
        .get("max-deleted-entry-id", "0-0")
        .startswith("1")
    ):
        ids = await add(c, 2)  # Redis 7 tells deletions by XDEL only
        await c.streams.xdel(STREAM, ids[0])


async def trimmed_pending(c: Clinic) -> None:
    ids = await add(c, 3)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xreadgroup(GROUP, "c1", {STREAM: ">"}, count=2)
    await c.streams.xdel(STREAM, ids[0])


async def dead_consumer(c: Clinic) -> None:
    ids = await add(c, 2)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")
    await c.streams.xreadgroup(GROUP, "died", {STREAM: ">"})
    await c.streams.xclaim(STREAM, GROUP, "died", 0, ids, idle=3_600_000)


async def no_processor(c: Clinic) -> None:
    await add(c, 3)
    await c.streams.xgroup_create(STREAM, GROUP, id="0")


async def many_consumers(c: Clinic) -> None:
    await add(c, 1)
    await c.streams.xgroup_create(STREAM, GROUP, id="$")
    for number in range(60):
        await c.streams.xgroup_createconsumer(STREAM, GROUP, f"c{number}")
