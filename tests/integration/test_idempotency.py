"""Idempotency keys: one request, however often it is sent."""

import asyncio

import pytest
from redis.asyncio import Redis

from app import keys
from app.door.idempotency import KEPT_S, Claim, KeptAnswer, claim, digest_of
from app.errors import ActionRefused, InvalidRequest, RedisUnavailable
from tests.conftest import start_redis

ASKED = digest_of("POST", "/events", b"{}")
ANSWER = KeptAnswer(201, '{"id":1}', "application/json")


async def test_the_second_request_gets_the_first_ones_answer(cache_redis: Redis) -> None:
    first = await claim(cache_redis, "ada", "k", ASKED)
    assert isinstance(first, Claim)
    await first.keep(ANSWER)

    assert await claim(cache_redis, "ada", "k", ASKED) == ANSWER
    assert isinstance(await claim(cache_redis, "eve", "k", ASKED), Claim)
    assert 0 < await cache_redis.ttl(first.key) <= KEPT_S
    assert first.key.startswith(keys.idempotent(""))


async def test_another_request_with_the_same_key_is_refused(cache_redis: Redis) -> None:
    await claim(cache_redis, "ada", "k", ASKED)

    for other in (digest_of("POST", "/events", b'{"a":1}'), digest_of("POST", "/jobs/q", b"{}")):
        with pytest.raises(ActionRefused, match="another request"):
            await claim(cache_redis, "ada", "k", other)


async def test_of_many_at_once_one_is_carried_out(cache_redis: Redis) -> None:
    answers = await asyncio.gather(
        *(claim(cache_redis, "ada", "k", ASKED) for _ in range(20)), return_exceptions=True
    )

    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert sum(isinstance(answer, ActionRefused) for answer in answers) == 19


async def test_a_request_that_failed_may_be_sent_again(cache_redis: Redis) -> None:
    first = await claim(cache_redis, "ada", "k", ASKED)
    assert isinstance(first, Claim)
    await first.give_up()

    assert isinstance(await claim(cache_redis, "ada", "k", ASKED), Claim)


async def test_an_answer_too_long_to_keep_is_made_anew(cache_redis: Redis) -> None:
    first = await claim(cache_redis, "ada", "k", ASKED)
    assert isinstance(first, Claim)
    await first.keep(KeptAnswer(201, "x" * 300_000, "application/json"))

    assert isinstance(await claim(cache_redis, "ada", "k", ASKED), Claim)
    with pytest.raises(ActionRefused):
        await claim(cache_redis, "ada", "k", digest_of("POST", "/other", b""))


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb"])
async def test_a_key_that_is_none_is_refused(cache_redis: Redis, key: str) -> None:
    with pytest.raises(InvalidRequest):
        await claim(cache_redis, "ada", key, ASKED)


async def test_without_its_redis_nothing_is_claimed(tmp_path) -> None:
    server = start_redis(tmp_path)
    client = Redis.from_url(server.url, socket_timeout=1)
    server.kill()

    with pytest.raises(RedisUnavailable):
        await claim(client, "ada", "k", ASKED)
    await client.aclose()
