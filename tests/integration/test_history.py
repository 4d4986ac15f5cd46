"""History against the truth: a load known to the last job, through restarts, an outage and deploys."""

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from app import audit, keys
from app.analyses.percentiles import exact_s
from app.annals import past
from app.annals.historian import HOURS_KEPT_MS, MINUTES_KEPT_MS, Historian
from app.annals.past import annotations, as_of, history
from app.errors import BadRecord, InvalidRequest, NotFound
from app.notebook import connect
from app.records import BUCKET_ERROR, bucket_of
from app.sampling.sample import Sample
from app.sampling.sharing import Sharing
from app.settings import Settings
from tests.conftest import RunningRedis, start_redis

QUEUE: Final = "async-processing"
STREAM: Final = "pyairtable-events"
#: 22:00 UTC two days ago, in epoch minutes: the load runs over midnight, ends before today, and
#: nothing of it has expired yet
START: Final = (int(time.time() // 86_400) - 1) * 1440 - 120
HOURS: Final = 3
OUTAGE: Final = range(START + 100, START + 107)  # Redis is away: nothing happens, nobody sees
BLIND: Final = range(START + 110, START + 131)  # no collector: work goes on
DEPLOYS: Final = {START + 60: "2.0", START + 140: "2.1"}


@dataclass
class Truth:
    """What happened in one minute."""

    accepted: int = 0
    complete: int = 0
    retried: int = 0
    dead: int = 0
    waiting: list[int] = field(default_factory=list)
    runs_s: list[float] = field(default_factory=list)


class Load:
    """A queue that is simulated: three looks a minute, every arrival and ending counted."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.random = random.Random(7)
        self.truth: dict[int, Truth] = {}
        self.held, self.handled = 40, 0
        self.version, self.since = "1.0", START * 60_000 - 5_000_000

    async def minute(self, minute: int) -> Iterator[Sample]:
        """Let one minute happen, as the scripts would count it; return what a collector sees."""
        truth = self.truth[minute] = Truth()
        if minute in DEPLOYS:
            self.version, self.since = DEPLOYS[minute], minute * 60_000
        if minute in OUTAGE:
            return iter(())
        counted: dict[str, int] = {}
        samples = []
        for second in (10, 30, 50):
            arrived, ended = self.random.randint(0, 9), self.random.randint(0, min(8, self.held))
            failed = self.random.randint(0, 2)
            dead = min(ended, self.random.choice((0, 0, 1)))
            self.held += arrived - ended
            self.handled += 5
            truth.accepted += arrived
            truth.complete += ended - dead
            truth.dead += dead
            truth.retried += failed
            truth.waiting.append(self.held)
            for name, amount in (
                ("|a|accepted", arrived),
                ("f|o|complete", ended - dead),
                ("f|o|dead", dead),
                ("f|o|retry", failed),
            ):
                counted[name] = counted.get(name, 0) + amount
            for _ in range(ended + failed):
                run_s = self.random.lognormvariate(0, 1.5)
                truth.runs_s.append(run_s)
                name = f"f|r|{bucket_of(run_s * 1000)}"
                counted[name] = counted.get(name, 0) + 1
            samples.append(self.sample(minute * 60_000 + second * 1000))
        if counted:
            await self.redis.hset(keys.minute(QUEUE, minute), mapping=counted)
        return iter(samples)

    def sample(self, now_ms: int) -> Sample:
        worker = {
            "id": f"w-{self.version}", "role": "worker", "source": QUEUE, "version": self.version,
            "since": self.since, "beat": now_ms, "host": "h", "state": "running", "slots": 5,
        }  # fmt: skip
        queue: dict[str, Any] = {
            "queue": QUEUE, "waiting": self.held, "deferred": 0, "running": 0, "slots": 5.0,
            "workers": 1.0, "dead_open": 3.0, "redriven": 0, "oldest_wait_s": 1.5, "paused": False,
        }  # fmt: skip
        stream = {"stream": STREAM, "length": 10 * self.held, "processed": self.handled, "dead": 0}
        lag = {"stream": STREAM, "lag": self.held % 7, "lag_s": 0.5}
        return Sample(
            at_us=now_ms * 1000, now_ms=now_ms, queues=[queue], workers=[worker], running=[],
            streams=[stream], stream_history=[lag],
            letters=[{"id": "d1", "kind": "job", "source": QUEUE, "died": now_ms - 5, "attempts": 1}],
        )  # fmt: skip


async def lived_through(redis: Redis) -> Load:
    """Let the whole load happen: a collector, none, another collector, each minute written in time."""
    load = Load(redis)
    historian = Historian()
    for minute in range(START, START + HOURS * 60):
        seen = await load.minute(minute)
        if minute in BLIND:
            historian = Historian()  # the next one knows nothing but what Redis holds
            continue
        for sample in seen:
            historian.see(sample)
        if minute in OUTAGE:
            continue
        now_ms = (minute + 1) * 60_000 + 4_000
        assert historian.is_due(now_ms)
        await historian.write(redis, now_ms)
    return load


def end_ms(minutes: int = HOURS * 60) -> float:
    return (START + minutes) * 60_000.0


@pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)
async def test_every_figure_of_a_known_load_equals_the_truth(
    queue_redis: Redis, streams_redis: Redis
) -> None:
    load = await lived_through(queue_redis)

    await figures_are_true(queue_redis, load)
    await deploys_are_marked_once_at_the_moment_their_workers_started(queue_redis)
    await the_pages_as_of_a_moment_are_those_of_then(queue_redis, streams_redis, load)
    await what_is_written_expires_by_itself(queue_redis)


async def figures_are_true(queue_redis: Redis, load: Load) -> None:
    now_ms = end_ms() + 5_000

    by_minute = await history(queue_redis, QUEUE, START * 60_000, end_ms(), now_ms=now_ms)
    by_hour = await history(
        queue_redis, QUEUE, START * 60_000, end_ms(), now_ms=now_ms + 8 * 86_400_000
    )

    assert (by_minute.attrs["tier"], by_minute.attrs["step_s"]) == ("minutes", 60)
    assert (by_hour.attrs["tier"], by_hour.attrs["step_s"]) == ("hours", 3600)
    assert len(by_minute) == HOURS * 60
    assert len(by_hour) == HOURS
    for n, row in enumerate(by_minute.to_dict("records")):
        minute = START + n
        truth = load.truth[minute]
        if minute in OUTAGE:
            assert pd.isna(
                [row["complete"], row["waiting"], row["samples"], row["run_p50_s"]]
            ).all()
            continue
        for name in ("accepted", "complete", "retried", "dead"):
            assert row[name] == getattr(truth, name), (name, n)
        five = range(minute - minute % 5, minute - minute % 5 + 5)  # packed minutes share theirs
        durations = [s for m in five if m in load.truth for s in load.truth[m].runs_s]
        exact = exact_s(durations, [0.5, 0.95])
        if durations:
            assert row["run_p50_s"] == pytest.approx(exact[0], rel=BUCKET_ERROR * 1.001)
            assert row["run_p95_s"] == pytest.approx(exact[1], rel=BUCKET_ERROR * 1.001)
        if minute in BLIND:  # counted by the workers, seen by nobody
            assert row["samples"] == 0
            assert pd.isna(row["waiting"])
        else:
            assert row["waiting"] == pytest.approx(sum(truth.waiting) / 3, rel=1e-4)
            assert row["waiting_max"] == max(truth.waiting)
            assert row["held"] == truth.waiting[-1]
            assert row["samples"] == 3
    for hour in range(HOURS):
        inside = [load.truth[START + hour * 60 + n] for n in range(60)]
        row = by_hour.iloc[hour]
        for name in ("accepted", "complete", "retried", "dead"):
            assert row[name] == sum(getattr(truth, name) for truth in inside)
        three = range((START + hour * 60) // 180 * 180, (START + hour * 60) // 180 * 180 + 180)
        durations = [s for m in three if m in load.truth for s in load.truth[m].runs_s]
        for name, exact_p in zip(
            ("p50", "p95", "p99"), exact_s(durations, [0.5, 0.95, 0.99]), strict=True
        ):
            assert row[f"run_{name}_s"] == pytest.approx(exact_p, rel=BUCKET_ERROR * 1.001)


async def deploys_are_marked_once_at_the_moment_their_workers_started(
    queue_redis: Redis,
) -> None:
    await audit.record(queue_redis, "kim", "pause_queue", QUEUE, {"why": "trial"})
    await audit.record(queue_redis, "kim", "retry_letter", QUEUE, {})
    now = await queue_redis.time()

    marked = await annotations(queue_redis, START * 60_000, end_ms())
    said = await annotations(queue_redis, now[0] * 1000 - 5000, now[0] * 1000 + 5000)

    marked = marked[
        marked["kind"] == "deploy"
    ]  # until 01:00 the audit's lines are in the range, too

    assert marked["text"].to_list() == ["2.0 (before: 1.0)", "2.1 (before: 2.0)"]
    assert [int(t.timestamp() // 60) for t in marked["at"]] == list(DEPLOYS)
    assert said[["kind", "source", "actor"]].to_numpy().tolist() == [["pause_queue", QUEUE, "kim"]]


async def the_pages_as_of_a_moment_are_those_of_then(
    queue_redis: Redis, streams_redis: Redis, load: Load
) -> None:
    minute = START + 170

    then = await as_of(queue_redis, streams_redis, minute * 60_000 + 30_000, now_ms=end_ms())

    assert then.taken_at == pd.Timestamp((minute - 1) * 60 + 50, unit="s", tz="UTC")
    assert then.queues["waiting"].to_list() == [load.truth[minute - 1].waiting[-1]]
    assert then.workers["version"].to_list() == ["2.1"]
    assert then.dead_letters["id"].to_list() == ["d1"]
    assert then.history["at"].max() < then.taken_at
    assert then.history["waiting"].notna().sum() > 30
    log = then.stream_history.dropna(subset=["lag"])
    assert dict(log.dtypes) == dict(then.stream_history.dtypes)
    assert log["at"].max() < then.taken_at
    assert log["processed_per_s"].iloc[-2] == pytest.approx(15 / 60)  # three samples, five each
    assert log["lag"].iloc[-2] == pytest.approx(
        sum(held % 7 for held in load.truth[minute - 2].waiting) / 3, rel=1e-4
    )
    with pytest.raises(NotFound, match="moment"):
        await as_of(queue_redis, streams_redis, START * 60_000 - 3_600_000, now_ms=end_ms())


@pytest.mark.parametrize(
    ("start", "end"),
    [("1970-01-01", "9999-12-31"), ("now", "9999-12-31"), ("1970-01-01", "1971-01-01")],
)
async def test_however_wide_a_range_is_only_what_is_kept_is_asked_for(
    queue_redis: Redis, start: str, end: str
) -> None:
    """
    Anybody who may look may ask for the year 9999: it must not cost a key for every hour until then.
    """
    now_ms = time.time() * 1000
    since, until = (
        now_ms - 3_600_000 if text == "now" else pd.Timestamp(text, tz="UTC").timestamp() * 1000
        for text in (start, end)
    )

    async with queue_redis.monitor() as monitor:
        frame = await history(queue_redis, QUEUE, since, until, now_ms=now_ms, points=10)
        await queue_redis.get("end-of-watch")
        asked = 0
        while "end-of-watch" not in (command := str((await monitor.next_command())["command"])):
            asked += len(command.split())

    assert 1 <= len(frame) <= 11
    assert asked < 24 * 8 + 10


async def test_of_too_many_marks_the_newest_are_shown_and_the_cut_is_said(
    queue_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "AUDIT_WINDOW", 3)
    for n in range(5):
        await audit.record(queue_redis, "kim", "pause_queue", f"q{n}", {})
    now_ms = time.time() * 1000

    cut = await annotations(queue_redis, now_ms - 60_000, now_ms + 60_000)
    monkeypatch.setattr(past, "AUDIT_WINDOW", 100)
    whole = await annotations(queue_redis, now_ms - 60_000, now_ms + 60_000)

    assert cut["source"].to_list() == ["q2", "q3", "q4"]
    assert (cut.attrs["cut"], whole.attrs["cut"]) == (True, False)
    assert len(whole) == 5


def test_a_moment_of_an_older_version_is_still_read() -> None:
    text = json.dumps({"at_us": 5, "now_ms": 5.0, "queues": [{"queue": "q"}], "later": 1})

    sample = Sample.from_json(text)

    assert (sample.queues, sample.functions) == ([{"queue": "q"}], None)
    with pytest.raises(BadRecord):
        Sample.from_json("{}")


async def test_a_range_that_is_none_is_refused(queue_redis: Redis) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        await history(queue_redis, QUEUE, 10.0, 10.0, now_ms=20.0)
    with pytest.raises(InvalidRequest, match="points"):
        await history(queue_redis, QUEUE, 10.0, 20.0, now_ms=20.0, points=10**6)


async def test_a_server_that_must_not_write_keeps_no_history(
    redis_server: RunningRedis, queue_redis: Redis, settings: Any
) -> None:
    from app.collector import Collector

    collector = Collector(settings.model_copy(update={"keep_history": False}))
    for _ in range(3):
        await collector.sample()
    await collector.stop()

    assert [key async for key in queue_redis.scan_iter("arqscope:*")] == []
    assert collector.snapshot.role == "alone"


async def what_is_written_expires_by_itself(queue_redis: Redis) -> None:
    chunks = [key async for key in queue_redis.scan_iter("arqscope:*history:[mh]:*")]
    assert len(chunks) == 2 * (HOURS + 1)  # every hour, and the day before; of queue and stream
    for key in chunks:
        tier, number = key.split(":")[-2:]
        span_ms, kept_ms = {"m": (3_600_000, MINUTES_KEPT_MS), "h": (86_400_000, HOURS_KEPT_MS)}[
            tier
        ]
        before_ms = time.time() * 1000
        left_ms = await queue_redis.pttl(key)
        ended_ms = (int(number) + 1) * span_ms
        assert before_ms - 1 <= ended_ms + kept_ms - left_ms <= time.time() * 1000 + 1, key
    assert 0 < await queue_redis.pttl(keys.history_open(QUEUE)) <= 8 * 86_400_000
    assert await queue_redis.hlen(keys.history_open(QUEUE)) < 130


def test_a_notebook_reads_history_forecasts_and_verdicts(settings: Settings) -> None:
    with connect(settings) as scope:
        scope.enqueue(QUEUE, "generic", {"n": 1}, id="n1", delay_s=60)

        past = scope.past(QUEUE, pd.Timestamp.now("UTC") - pd.Timedelta(hours=1))
        forecast = scope.refresh().forecast(QUEUE, workers=2)
        why = scope.why(QUEUE, "n1")

        assert len(past) >= 60
        assert forecast.drains is None
        assert why.hold == "deferred"
        with pytest.raises(NotFound, match="no queue"):
            scope.forecast("nothing")
        with pytest.raises(NotFound, match="moment"):
            scope.as_of("2020-01-01")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RunningRedis]:
    """A server a test may turn into a replica."""
    server = start_redis(tmp_path / "own")
    yield server
    server.stop()


async def test_history_and_the_lead_go_on_after_a_redis_that_refused_writes_for_a_while(
    own_redis: RunningRedis,
) -> None:
    """
    Read-only, full or without its replicas is not "never": only missing rights are.
    """
    redis = Redis.from_url(own_redis.url, decode_responses=True)
    historian, sharing = Historian(), Sharing()
    historian.see(Load(redis).sample(START * 60_000))
    now_ms = (START + 1) * 60_000 + 4_000

    await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(ReadOnlyError):
        await historian.write(redis, now_ms)
    await sharing.settle(redis)
    assert (historian.is_due(now_ms), sharing.role) == (True, "alone")

    await redis.execute_command("REPLICAOF", "NO", "ONE")
    assert await historian.write(redis, now_ms) > 0
    await sharing.settle(redis)
    assert (historian.is_due(now_ms), sharing.role) == (False, "leader")
    await redis.aclose()


async def test_who_may_not_write_history_is_told_once_and_asks_no_more(
    own_redis: RunningRedis,
) -> None:
    admin = Redis.from_url(own_redis.url)
    await admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read", "+ping")
    url = own_redis.url.replace(f":{own_redis.password}@", "reader:pw@")
    redis = Redis.from_url(url, decode_responses=True)
    historian, sharing = Historian(), Sharing()
    historian.see(Load(redis).sample(START * 60_000))
    now_ms = (START + 1) * 60_000 + 4_000

    assert await historian.write(redis, now_ms) == 0
    await sharing.settle(redis)

    assert (historian.is_due(now_ms), sharing.role, sharing._barred) == (False, "alone", True)
    await redis.aclose()
    await admin.aclose()
