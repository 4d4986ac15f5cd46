"""Dead letters as the workers' scripts write them, and where they lie. For tests."""

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from redis.asyncio import Redis

from app import keys
from app.actions import Actor
from app.records import DeadLetter, LetterState

QUEUE = "async-processing"
ANN = Actor(name="ann", role="operator")
BOB = Actor(name="bob", role="admin")
EVE = Actor(name="eve", role="viewer")
PAYLOAD = b'j1:{"t":null,"f":"sync","a":[],"k":{},"et":1}\x00\xff\xfe'

both_servers = pytest.mark.parametrize("redis_server", ["system", "bundled"], indirect=True)


async def bury(
    redis: Redis, letter_id: str = "j1", payload: bytes | None = PAYLOAD, **facts: Any
) -> DeadLetter:
    """Write a dead letter as the finish script does."""
    async with redis.pipeline() as pipe:
        letter = _bury(pipe, letter_id, payload, facts)
        await pipe.execute()
    return letter


async def bury_many(
    redis: Redis, ids: Iterable[str], payload: bytes | None = PAYLOAD, **facts: Any
) -> list[str]:
    """Write many dead letters; a fact may be a function of the number."""
    names = list(ids)
    for start in range(0, len(names), 500):
        async with redis.pipeline() as pipe:
            for n, letter_id in enumerate(names[start : start + 500], start):
                told = {k: v(n) if callable(v) else v for k, v in facts.items()}
                _bury(pipe, letter_id, payload, told)
            await pipe.execute()
    return names


def _bury(
    redis: Any, letter_id: str, payload: bytes | None, facts: Mapping[str, Any]
) -> DeadLetter:
    died_ms = int(time.time() * 1000)
    base = {"kind": "job", "source": QUEUE, "name": "sync", "reason": "attempts"}
    error = {"error_type": "RuntimeError", "error": "boom", "fingerprint": f"f{letter_id}"}
    letter = DeadLetter(
        **(base | error | {"id": letter_id, "state": LetterState.NEW, "died_ms": died_ms} | facts)
    )
    source = letter.source
    redis.hset(keys.dead_record(source, letter_id), mapping=letter.to_fields())
    if payload is not None:
        redis.set(keys.dead_payload(source, letter_id), payload)
    redis.zadd(keys.dead_open(source), {letter_id: letter.died_ms})
    return letter


async def bury_event(
    redis: Redis,
    stream: str,
    letter_id: str = "5-1",
    more: Mapping[str, str] | None = None,
    **facts: Any,
) -> dict:
    fields = {"type": "user.created", "data": '{"a":1}', "userId": "ü", **(more or {})}
    await bury(
        redis,
        letter_id,
        json.dumps({"raw": fields}).encode(),
        kind="event",
        source=stream,
        name="user.created",
        **facts,
    )
    return fields


async def places(redis: Redis, letter_id: str, source: str = QUEUE) -> list[str]:
    names = {"open": keys.dead_open, "retrying": keys.dead_retrying, "closed": keys.dead_closed}
    return [n for n, key in names.items() if await redis.zscore(key(source), letter_id) is not None]


async def field(redis: Redis, letter_id: str, name: str, source: str = QUEUE) -> str | None:
    return await redis.hget(keys.dead_record(source, letter_id), name)
