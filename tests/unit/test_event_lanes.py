"""Lanes: order per partition, bounded concurrency, being alone, waiting without a slot."""

import asyncio

import pytest

from workers.events.lanes import Lanes


class Work:
    """Items that take some turns of the loop; remembers what ran, in order, and beside what."""

    def __init__(
        self, slots: int, alone: tuple[str, ...] = (), again: tuple[str, ...] = ()
    ) -> None:
        self.again = list(again)
        self.running: list[str] = []
        self.ended: list[str] = []
        self.beside: dict[str, set[str]] = {}
        self.lanes: Lanes[str] = Lanes(self.settle, slots, is_alone=lambda item: item in alone)

    def add(self, lane: str | None, item: str) -> None:
        self.lanes.add(lane, item)

    async def settle(self, item: str) -> float | None:
        self.running.append(item)
        for one in self.running:
            self.beside.setdefault(one, set()).update(set(self.running) - {one})
        for _ in range(0 if item.startswith("quick") else 5):
            await asyncio.sleep(0)
        self.running.remove(item)
        if item in self.again:
            self.again.remove(item)
            return 0.01
        self.ended.append(item)
        return None

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.ended) < count:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_partition_keeps_its_order_while_others_run_beside_it():
    work = Work(3)

    for number in range(10):
        work.add("a", f"a{number}")
        work.add("b", f"b{number}")
    await work.until(20)

    assert [item for item in work.ended if item[0] == "a"] == [f"a{n}" for n in range(10)]
    assert any(other[0] == "b" for other in work.beside["a0"])


async def test_no_more_run_than_there_are_slots():
    work = Work(2)

    for number in range(20):
        work.add(None if number % 2 else str(number), str(number))
    await work.until(20)

    assert max(len(others) for others in work.beside.values()) <= 3  # at most one at a time each
    assert work.lanes.busy == 0


async def test_a_suspect_runs_alone():
    work = Work(5, alone=("suspect", "suspect too"))

    for number in range(8):
        work.add(str(number), str(number))
    work.add("s", "suspect")
    work.add(None, "suspect too")
    for number in range(8, 16):
        work.add(None, str(number))
    await work.until(18)

    assert (work.beside["suspect"], work.beside["suspect too"]) == (set(), set())


async def test_items_that_never_suspend_keep_their_order_and_need_one_turn():
    work = Work(5)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    for number in range(100):
        work.add("a" if number % 2 else None, f"quick{number:02d}")
    await work.until(100)
    counting.cancel()

    odd = [item for item in work.ended if int(item[-2:]) % 2]
    assert odd == sorted(odd)
    assert turns < 20


async def test_an_item_that_waits_holds_its_lane_but_no_slot():
    work = Work(1, again=("a0",))

    for number in range(3):
        work.add("a", f"a{number}")
        work.add("b", f"b{number}")
    await work.until(6)

    assert [item for item in work.ended if item[0] == "a"] == ["a0", "a1", "a2"]
    assert work.ended.index("b2") < work.ended.index("a0")


async def test_draining_ends_what_runs_and_starts_nothing_else():
    work = Work(5)
    for number in range(5):
        work.add("a", str(number))
    await asyncio.sleep(0)

    await work.lanes.drain(5)

    assert work.ended == ["0"]


async def test_a_fault_is_heard_of():
    async def settle(item: str) -> float | None:
        raise LookupError(item)

    lanes: Lanes[str] = Lanes(settle, 2)
    lanes.fault = asyncio.get_running_loop().create_future()
    lanes.add("a", "x")

    with pytest.raises(LookupError):
        async with asyncio.timeout(5):
            await lanes.fault
