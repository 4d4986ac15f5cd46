"""Watch the metrics of queues and streams by the alert rules, every few seconds, while leading.

Reads what the rules need in two round trips for all queues and a few per stream, whatever is stored. The state of each rule
lies in Redis, so that the next leader goes on where this one stopped.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from app import keys
from app.alerts.rules import MIN_RUNS, AlertRule, RuleState, step
from app.records import bucket_value
from workers.alerts.notices import Alerts

INTERVAL_S: Final = 5.0
#: a heartbeat older than this is of a dead process
BEAT_MS: Final = 20_000
MAX_WORKERS: Final = 200
STATE_TTL_S: Final = 86_400
_NAN: Final = math.nan

Values = dict[str, float]


class AlertWatch:
    """Steps every rule through what it reads."""

    def __init__(
        self, queue: Redis, streams: Redis, alerts: Alerts, rules: Sequence[AlertRule]
    ) -> None:
        self._queue = queue
        self._streams = streams
        self._alerts = alerts
        self._rules = tuple(rules)
        self._states: dict[str, RuleState] | None = None

    def forget(self) -> None:
        """Another process led meanwhile: its states hold."""
        self._states = None

    async def look(self, queues: Sequence[str], streams: Sequence[str]) -> int:
        """Read every metric once and raise or end alerts; returns how many turned."""
        if not self._rules:
            return 0
        if self._states is None:
            raw: Any = await self._alerts.cache.hgetall(keys.ALERT_RULES)  # type: ignore[misc]
            self._states = {name: RuleState.from_json(text) for name, text in raw.items()}
        values = await queue_values(self._queue, queues)
        for stream in streams:
            values[stream] = await stream_values(self._streams, stream)
        turned = 0
        changed: dict[str, str] = {}
        for rule in self._rules:
            for source, known in values.items():
                if rule.metric in known and rule.watches(source):
                    turned += await self._step(rule, source, known[rule.metric], changed)
        if changed:
            async with self._alerts.cache.pipeline(transaction=True) as pipe:
                pipe.hset(keys.ALERT_RULES, mapping=changed)
                pipe.expire(keys.ALERT_RULES, STATE_TTL_S)
                await pipe.execute()
        return turned

    async def _step(
        self, rule: AlertRule, source: str, value: float, changed: dict[str, str]
    ) -> int:
        assert self._states is not None  # noqa: S101 - look() read them
        name = f"{rule.name}|{source}"
        before = self._states.get(name, RuleState())
        state, turn = step(rule, before, time.time(), value)
        # told before it is remembered: a kill in between tells it once more, and dedup holds that back
        if turn == "resolved":
            await self._alerts.end_of_rule(rule, source, value)
        elif state.firing and rule.is_bad(value):
            await self._alerts.of_rule(rule, source, value)
        self._states[name] = state
        if (state.firing, state.bad_since_s, state.well_since_s) != (
            before.firing,
            before.bad_since_s,
            before.well_since_s,
        ):
            changed[name] = state.to_json()
        return bool(turn)


async def queue_values(redis: Redis, queues: Sequence[str]) -> dict[str, Values]:
    """Every metric of *queues*; what could not be read or is too little is NaN."""
    now = await redis.time()
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    minute = now_ms // 60_000
    async with redis.pipeline(transaction=False) as pipe:
        pipe.zrevrangebyscore(keys.WORKERS, "+inf", now_ms - BEAT_MS, start=0, num=MAX_WORKERS)
        for queue in queues:
            pipe.zcount(queue, "-inf", now_ms)
            pipe.zrange(queue, 0, 0, withscores=True)
            pipe.zcard(keys.dead_open(queue))
            pipe.hgetall(keys.minute(queue, minute))
            pipe.hgetall(keys.minute(queue, minute - 1))
        workers, *replies = await pipe.execute()
    async with redis.pipeline(transaction=False) as pipe:
        for name in workers:
            pipe.hmget(keys.worker(name), ["role", "source"])
        beats = await pipe.execute() if workers else []
    serving = {source for role, source in beats if role == "worker"}
    found: dict[str, Values] = {}
    for n, queue in enumerate(queues):
        due, first, dead, *minutes = replies[5 * n : 5 * n + 5]
        oldest_s = max(0.0, (now_ms - first[0][1]) / 1000) if due and first else 0.0
        found[queue] = {
            "backlog": float(due),
            "oldest_wait_s": oldest_s,
            "dead_open": float(dead),
            "workers_missing": float(bool(due) and queue not in serving),
            **minute_values(minutes),
        }
    return found


async def live_workers(redis: Redis) -> list[tuple[str, str, str, int]]:
    """Return (id, source, version, ms of its start) of the workers that beat, at most 200."""
    now = await redis.time()
    since = int(now[0]) * 1000 - BEAT_MS
    names: Any = await redis.zrevrangebyscore(keys.WORKERS, "+inf", since, start=0, num=MAX_WORKERS)
    async with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(keys.worker(name), ["role", "source", "version", "since_ms"])
        rows = await pipe.execute() if names else []
    return [
        (str(name), source, version, int(since_ms))
        for name, (role, source, version, since_ms) in zip(names, rows, strict=True)
        if role == "worker" and since_ms
    ]


def minute_values(minutes: Sequence[Mapping[str, str]]) -> Values:
    """Failure share and 95th percentiles from minute histograms (``keys.minute``)."""
    outcomes: dict[str, int] = {}
    buckets: dict[str, dict[int, int]] = {"w": {}, "r": {}}
    for fields in minutes:
        for name, text in fields.items():
            rest, _, last = name.rpartition("|")
            kind, count = rest[-1:], int(text)
            if kind == "o":
                outcomes[last] = outcomes.get(last, 0) + count
            elif kind in buckets and last.isdecimal():
                buckets[kind][int(last)] = buckets[kind].get(int(last), 0) + count
    failed = outcomes.get("dead", 0) + outcomes.get("retry", 0)
    total = failed + outcomes.get("complete", 0)
    return {
        "failure_share": failed / total if total >= MIN_RUNS else _NAN,
        "wait_p95_s": _p95_s(buckets["w"]),
        "run_p95_s": _p95_s(buckets["r"]),
    }


def _p95_s(counts: Mapping[int, int]) -> float:
    """The 95th percentile by nearest rank, within ``records.BUCKET_ERROR``; NaN of nothing."""
    rank, seen = math.ceil(0.95 * sum(counts.values())), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return bucket_value(bucket) / 1000
    return _NAN


async def stream_values(redis: Redis, stream: str) -> Values:
    """Lag of the slowest group of *stream*, in events (NaN where Redis does not tell) and seconds."""
    now = await redis.time()
    now_ms = int(now[0]) * 1000 + int(now[1]) // 1000
    dead: Any = await redis.zcard(keys.dead_open(stream))
    values: Values = {"dead_open": float(dead)}
    if not await redis.exists(stream):
        return values | {"lag": 0.0, "lag_s": 0.0}
    groups: Any = await redis.xinfo_groups(stream)
    if not groups:
        return values
    lags = [group.get("lag") for group in groups]
    values["lag"] = _NAN if None in lags else float(max(lags))
    behind_s = 0.0
    for group in groups[:10]:
        after = await redis.xrange(stream, f"({group['last-delivered-id']}", "+", count=1)
        if after:
            behind_s = max(behind_s, (now_ms - int(str(after[0][0]).partition("-")[0])) / 1000)
    return values | {"lag_s": behind_s}
