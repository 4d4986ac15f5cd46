"""Lanes and slots: order per partition, bounded concurrency, being alone."""

import asyncio

import pytest

from workers.event_lanes import Lanes, Slots


class Work:
    """Items that wait to be let through; remembers what ran, in order, and beside what."""

    def __init__(self, slots: Slots, alone: tuple[str, ...] = ()) -> None:
        self.slots = slots
        self.alone = alone
        self.running: list[str] = []
        self.ended: list[str] = []
        self.beside: dict[str, set[str]] = {}
        self.lanes: Lanes[str] = Lanes(self.settle)

    async def settle(self, item: str) -> None:
        async with self.slots.take(alone=item in self.alone):
            self.running.append(item)
            for one in self.running:
                self.beside.setdefault(one, set()).update(set(self.running) - {one})
            for _ in range(5):
                await asyncio.sleep(0)
            self.running.remove(item)
            self.ended.append(item)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.ended) < count:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_partition_keeps_its_order_while_others_run_beside_it():
    work = Work(Slots(3))

    for number in range(10):
        work.lanes.add("a", f"a{number}")
        work.lanes.add("b", f"b{number}")
    await work.until(20)

    assert [item for item in work.ended if item[0] == "a"] == [f"a{n}" for n in range(10)]
    assert any(other[0] == "b" for other in work.beside["a0"])


async def test_no_more_run_than_there_are_slots():
    work = Work(Slots(2))

    for number in range(20):
        work.lanes.add(str(number), str(number))
    await work.until(20)

    assert max(len(others) for others in work.beside.values()) <= 3  # at most one at a time each
    assert work.slots.taken == 0


async def test_a_suspect_runs_alone():
    work = Work(Slots(5), alone=("suspect",))

    for number in range(8):
        work.lanes.add(str(number), str(number))
    work.lanes.add("s", "suspect")
    for number in range(8, 16):
        work.lanes.add(str(number), str(number))
    await work.until(17)

    assert work.beside["suspect"] == set()


async def test_a_waiter_that_gives_up_takes_nobodys_turn():
    slots = Slots(1)
    release = asyncio.Event()

    async def hold() -> None:
        async with slots.take():
            await release.wait()

    async def single() -> None:
        async with slots.take(alone=True):
            pass

    holder, waiter, last = (asyncio.create_task(c()) for c in (hold, single, hold))
    await asyncio.sleep(0)
    waiter.cancel()
    release.set()
    async with asyncio.timeout(5):
        await asyncio.gather(holder, waiter, last, return_exceptions=True)

    assert slots.taken == 0


async def test_draining_ends_what_runs_and_starts_nothing_else():
    work = Work(Slots(5))
    for number in range(5):
        work.lanes.add("a", str(number))
    await asyncio.sleep(0)

    await work.lanes.drain(5)

    assert work.ended == ["0"]


async def test_a_fault_is_heard_of():
    async def settle(item: str) -> None:
        raise LookupError(item)

    lanes: Lanes[str] = Lanes(settle)
    lanes.fault = asyncio.get_running_loop().create_future()
    lanes.add("a", "x")

    with pytest.raises(LookupError):
        async with asyncio.timeout(5):
            await lanes.fault
