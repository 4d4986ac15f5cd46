"""The deciding side of dead letters under fault, rows of FAULTS.md: D1, D7, D8."""

import asyncio
import contextlib
import hashlib
import json
import random
import statistics
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
from redis.asyncio import Redis

from app import keys
from app.letters.fingerprint import fingerprint
from app.payloads.arguments import encoded, flat
from app.records import DeadLetter, LetterState
from app.settings import Settings
from app.wire.connections import connect
from tests.conftest import start_redis
from tests.faults.conftest import Row
from tests.faults.processor_nursery import FAILPOINTS, ProcessorNursery
from tests.faults.rig import FULL, sized
from tests.faults.waits import Commands, Watched
from tests.letters import QUEUE, bury, places
from tests.unit.test_fingerprint_corpus import ERRORS
from tests.waiting import until
from workers.alerts.channels import Channel, Deliveries, Sender
from workers.alerts.notices import WINDOW_S
from workers.letters.rounds import DeadLetterProcessor
from workers.policies import BUILT_IN_RULES, decide

#: error type → what the built-in rules do with it
CLASSES: Final = {
    "ConnectionError": "retrying",
    "ValueError": "closed",
    "PermissionError": "open",
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    running = start_redis(tmp_path / "redis", extra=("--appendfsync", "everysec"))
    yield running
    running.stop()


@pytest.fixture
async def clients(server: Any) -> AsyncIterator[dict[str, Redis]]:
    made = {
        role: connect(server.database(n)) for n, role in enumerate(("cache", "streams", "queue"))
    }
    yield made
    for client in made.values():
        await client.aclose()


def environment(server: Any, tmp_path: Path) -> dict[str, str]:
    return {
        "REDIS_URL": server.database(0),
        "REDIS_STREAMS_URL": server.database(1),
        "REDIS_QUEUE_URL": server.database(2),
        "RETRY_DELAY": "0",
        "ARQSCOPE_CONFIG_FILE": str(tmp_path / "none.toml"),
    }


@pytest.mark.row("D1")
@pytest.mark.seeded
async def test_no_letter_vanishes_or_doubles_when_the_processor_is_killed_at_any_step(
    server: Any, clients: dict[str, Redis], tmp_path: Path, row: Row, seed: int
) -> None:
    """
    SIGKILL before and after every step of the processor, again and again, while letters keep dying.
    """
    kills_each = sized(100, 1)
    chance = random.Random(seed)
    fields = environment(server, tmp_path)
    stream = Settings.load(fields, env_file=None).stream_name
    queue, streams = clients["queue"], clients["streams"]
    letters: dict[tuple[str, str], str] = {}
    payloads: dict[str, bytes] = {}
    killed: Counter[str] = Counter()
    with ProcessorNursery() as nursery:
        for number in range(kills_each):
            for step, failpoint in enumerate(FAILPOINTS):
                for error_type in CLASSES:
                    name = f"j{number}-{step}-{error_type}"
                    payloads[name] = b"j1:" + name.encode() + chance.randbytes(40)
                    await bury(
                        queue,
                        name,
                        payloads[name],
                        error_type=error_type,
                        fingerprint=f"job-{error_type}-{number % 7}",
                    )
                    letters[QUEUE, name] = error_type
                name = f"{1000 + number}-{step}"
                await bury(
                    streams,
                    name,
                    json.dumps({"raw": {"type": "user.created", "n": name}}).encode(),
                    kind="event",
                    source=stream,
                    name="user.created",
                    error_type="PermissionError",
                    fingerprint=f"event-{number % 7}",
                )
                letters[stream, name] = "PermissionError"
                code = nursery.run(fields, failpoint, chance.randint(1, 2))
                killed[failpoint] += code == -9
                assert code in (-9, 0)
                await queue.delete(keys.lease("dead-letters"))
        assert nursery.run(fields, "", 0) == 0

    vanished, doubled, wrong = [], [], []
    for (source, name), error_type in letters.items():
        found = await places(streams if source == stream else queue, name, source)
        if not found:
            vanished.append(name)
        if len(found) > 1:
            doubled.append(name)
        if found != [CLASSES[error_type]]:
            wrong.append((name, found))
    for name, payload in payloads.items():
        kept = await queue.get(keys.dead_payload(QUEUE, name))
        if kept is None or kept.encode("utf-8", "surrogateescape") != payload:
            vanished.append(f"payload of {name}")
    jobs = Counter(await queue.zrange(QUEUE, 0, -1))
    retrying = await queue.zrange(keys.dead_retrying(QUEUE), 0, -1)
    doubled += [name for name, n in jobs.items() if n > 1]
    counted = 0
    for name in await queue.zrange(keys.CAUSES, 0, -1):
        counted += int(await queue.hget(keys.cause(name), "count"))
    notices = [json.loads(n) for n in await clients["cache"].lrange(keys.DLQ_ALERTS, 0, -1)]
    alerts = _alerts_in_a_window(notices)
    row.figure(
        letters=len(letters),
        kills=sum(killed.values()),
        failpoints=len(FAILPOINTS),
        vanished=len(vanished),
        doubled=len(doubled),
        counted=counted,
        alerts_per_window=alerts,
    )
    assert (vanished, doubled, wrong) == ([], [], [])
    assert sorted(jobs) == sorted(f"{name}~r1" for name in retrying)
    assert counted == len(letters)
    assert alerts == 1
    assert sum(killed.values()) >= len(FAILPOINTS) * kills_each * 0.5
    assert all(killed[failpoint] for failpoint in FAILPOINTS if "after" in failpoint)


def _alerts_in_a_window(notices: list[dict[str, Any]]) -> int:
    """The most notices one cause got within one window; a long run spans several."""
    by_cause: dict[str, list[float]] = {}
    for notice in notices:
        at = datetime.fromisoformat(notice["timestamp"]).timestamp()
        by_cause.setdefault(notice["fingerprint"], []).append(at)
    return max(
        sum(start <= at < start + WINDOW_S - 1 for at in times)
        for times in by_cause.values()
        for start in times
    )


_BAITS: Final = (
    "a", "'", '"', "/", "1.", "a@", "a-", "a.b@c.", "\x00\udc80", "http://", "0x", 'File "', "\n", "~/",
    "input_value=", "b'", "[parameters:", "value: '", "line 1 ", "Task-1 ", "<path>:1", "<path>:",
    "Traceback (most recent call last):\n", '  File "/a/b.py", line 1, in f\n', "(1 sub-exceptions",
    "+---------------- 1 ----------------", "2026-11-23T", "1.1.1.", "\u2028", "é", "`", "a" * 999 + " ",
)  # fmt: skip


@pytest.mark.row("D7")
async def test_hostile_errors_take_bounded_time_and_memory_and_keep_their_group(row: Row) -> None:
    """
    Ten megabytes of anything, as message, as traceback, as arguments; real errors inside of it.
    """
    size = sized(10_000_000, 2_000_000)
    worst_ms, worst_bytes, strayed, tried = 0.0, 0, 0, 0
    settings = Settings()
    for bait in _BAITS:
        text = bait * (size // len(bait))

        def analyse(text: str = text) -> str:
            letter = DeadLetter(
                id="x",
                kind="job",
                source=QUEUE,
                name=text[:100],
                state=LetterState.NEW,
                reason="attempts",
                error_type="E",
                error=text,
            )
            decide(letter, BUILT_IN_RULES, settings)
            encoded(flat([{"a": text, "b": [text], "c": {"d": text}}], {}))
            return fingerprint("E", text, text)

        first = analyse()
        tracemalloc.start()
        again = analyse()
        worst_bytes = max(worst_bytes, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        took = []
        for _ in range(3):
            started = time.process_time()
            analyse()
            took.append((time.process_time() - started) * 1000)
        worst_ms = max(worst_ms, min(took))
        tried += 1
        strayed += first != again
    for error in ERRORS:  # outer frames without end, and a message that goes on without end
        plain = fingerprint(error.type, error.message, error.traceback)
        head = "Traceback (most recent call last):\n"
        start, _, last = error.traceback.rpartition(head)
        if "Group" not in error.type and last.count('File "') >= 5:
            outer = '  File "/srv/a.py", line 1, in outer\n    go()\n' * (size // 50)
            tried += 1
            strayed += fingerprint(error.type, error.message, start + head + outer + last) != plain
    row.figure(worst_ms=worst_ms, worst_mb=worst_bytes / 1e6, texts=tried, strayed=strayed)
    assert worst_ms <= 20
    assert worst_bytes <= 5_000_000
    assert strayed == 0


#: s a delivery may take, in D8: longer than any storm lasts
TIMEOUT_S: Final = sized(60.0, 20.0)


class Channels(BaseHTTPRequestHandler):
    """A channel that answers as its path says."""

    def do_POST(self) -> None:
        server: Any = self.server
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.hits[self.path] += 1
        if self.path == "/slow":
            server.stopped.wait(2 * TIMEOUT_S)
            return
        self.send_response(int(self.path[1:]))
        if self.path == "/302":
            self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Channels)
    server.hits, server.stopped, server.daemon_threads = Counter(), threading.Event(), True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()


async def _storm(queue: Redis, count: int, prefix: str, causes: int) -> None:
    """Bury *count* letters of *causes* causes as the finish script does, quickly."""
    died_ms = int(time.time() * 1000)
    async with queue.pipeline(transaction=False) as pipe:
        for n in range(count):
            letter = DeadLetter(
                id=f"{prefix}-{n}",
                kind="job",
                source=QUEUE,
                name="sync",
                state=LetterState.NEW,
                reason="attempts",
                error_type="PermissionError",
                error="no",
                fingerprint=hashlib.sha256(f"{prefix}{n % causes}".encode()).hexdigest()[:16],
                died_ms=died_ms,
            )
            pipe.hset(keys.dead_record(QUEUE, letter.id), mapping=letter.to_fields())
            pipe.zadd(keys.dead_open(QUEUE), {letter.id: died_ms})
            if n % 500 == 499:
                await pipe.execute()
        await pipe.execute()


@pytest.mark.row("D8")
async def test_a_channel_that_is_down_slow_or_full_holds_nothing_up(
    server: Any, clients: dict[str, Redis], tmp_path: Path, listener: Any, row: Row
) -> None:
    """
    Storms of one cause: one alert each, however the channel fares, and no letter waits for it.

    The processor is given no sender: a channel can cost it no more than the line it puts in the outbox,
    the same one for every channel, and Redis' answer to that. Its CPU time is the least of interleaved
    rounds: the clock on the wall tells more about what else the machine does. What CPU time would hide
    is counted: how often it waited for anything but Redis, and how often for that. A
    processor that waited for a silent channel would not be through with a storm before that is given up.
    """
    storm, rounds = sized((10_000, 3), (250, 1))
    fields = environment(server, tmp_path)
    settings = Settings.load(fields, env_file=None)
    queue, cache = clients["queue"], clients["cache"]
    urls = {
        "none": "",
        "down": "json://127.0.0.1:9/x",
        **{
            word: f"json://127.0.0.1:{listener.server_port}/{path}"
            for word, path in
            (("ok", 200), ("slow", "slow"), ("failing", 500), ("redirect", 302), ("full", 429))
        },
    }  # fmt: skip
    us: dict[str, list[float]] = {mode: [] for mode in urls}
    wall_s: dict[str, list[float]] = {mode: [] for mode in urls}
    told: list[int] = []
    trips: dict[str, list[float]] = {mode: [] for mode in urls}
    waited_apart = 0
    own = (connect(server.database(2)), connect(server.database(1)), connect(server.database(0)))
    commands = Commands(*own)
    sender = Sender(["127.0.0.1/32"], timeout_s=TIMEOUT_S)
    for number in range(rounds):
        for mode, url in urls.items():
            channels = [Channel("c", url)] if url else []
            processor = DeadLetterProcessor(settings, *own, None, channels)
            deliveries = Deliveries(cache, channels, sender, lambda: True)
            await cache.flushdb()
            await queue.flushdb()
            await _storm(queue, storm, f"{mode}{number}", 1)
            task = asyncio.create_task(_deliver(deliveries))
            started, began = time.perf_counter(), time.thread_time()
            decided, sent = 0, commands.sent
            while decided < storm:
                watched = Watched(processor.round(), commands)
                decided += await watched
                waited_apart += watched.apart
            trips[mode].append((commands.sent - sent) / storm)
            us[mode].append((time.thread_time() - began) / storm * 1e6)
            wall_s[mode].append(time.perf_counter() - started)
            path = "/" + url.rpartition("/")[2]
            if mode not in ("none", "down"):
                await until(lambda p=path, n=number: _is_hit(listener, p, n), timeout_s=30)  # type: ignore[misc]
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            told.append(await cache.llen(keys.DLQ_ALERTS))
            waiting = await cache.zcard(keys.ALERTS_OUTBOX)
            assert waiting <= 1
    await sender.close()
    for client in own:
        await client.aclose()
    base = min(us["none"])
    change = {mode: min(v) / base - 1 for mode, v in us.items() if mode != "none"}
    longest_s = max(max(v) for v in wall_s.values())
    row.figure(
        storm=storm,
        alerts_per_storm=max(told),
        cpu_us_per_letter=base,
        **{f"{mode}_change": value for mode, value in change.items()},
        wall_us_per_letter={
            m: round(statistics.median(v) / storm * 1e6) for m, v in wall_s.items()
        },
        waited_apart=waited_apart,
        commands_per_letter={mode: round(max(n), 3) for mode, n in trips.items()},
        longest_storm_s=longest_s,
        given_up_after_s=TIMEOUT_S,
        hits=sum(listener.hits.values()),
    )
    assert set(told) == {1}
    assert longest_s < TIMEOUT_S
    assert waited_apart == 0
    assert max(map(max, trips.values())) < min(trips["none"]) * 1.10
    if FULL:  # a slice is too short to measure ratios in
        assert max(change.values()) < 0.10


async def _is_hit(listener: Any, path: str, before: int) -> bool:
    return bool(listener.hits[path] > before)


async def _deliver(deliveries: Deliveries) -> None:
    while True:
        await deliveries.round()
        await asyncio.sleep(0.05)
