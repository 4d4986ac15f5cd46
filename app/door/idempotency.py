"""Idempotency keys: the first good answer to a write is kept for a day, and given again for the same key.

Kept on the cache Redis. Jobs are safe without it, too: their ids follow from the key.
"""

import hashlib
import json
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import keys
from app.errors import ActionRefused, InvalidRequest, UnderWay
from app.wire.connections import explained

#: s an answer is given again
KEPT_S: Final = 86_400
#: s a request may take; after it another with the same key is tried anew
UNDER_WAY_S: Final = 60
#: a longer answer is not kept: asked again, the request is carried out again, which its ids make safe
MAX_ANSWER_BYTES: Final = 262_144
MAX_KEY_CHARS: Final = 255
#: what a header can carry everywhere, without blanks at its ends, which a header loses on its way
KEY_PATTERN: Final = rf"[!-~](?:[ -~]{{0,{MAX_KEY_CHARS - 2}}}[!-~])?"
_KEY: Final = re.compile(KEY_PATTERN)
_WHERE: Final = "redis://cache"


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer given before."""

    status: int
    body: str
    content_type: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry out a request with an idempotency key; to be kept or given up."""

    redis: Redis
    key: str
    digest: str
    token: str
    began: float

    async def keep(self, answer: KeptAnswer) -> None:
        """Keep *answer* for whoever asks the same again."""
        too_long = len(answer.body) > MAX_ANSWER_BYTES
        body = "" if too_long else answer.body
        text = json.dumps(
            {
                "digest": self.digest,
                "status": 0 if too_long else answer.status,
                "body": body,
                "type": answer.content_type,
            }
        )
        await _asked(self.redis.set(self.key, text, ex=KEPT_S))

    async def give_up(self) -> None:
        """Let the key be used again: the request was refused or failed."""
        if time.monotonic() - self.began < UNDER_WAY_S:
            await _asked(self.redis.delete(self.key))


def digest_of(method: str, path: str, body: bytes) -> str:
    """Digest of a request: what makes it the same as another one."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()


async def claim(redis: Redis, caller: str, key: str, digest: str) -> Claim | KeptAnswer:
    """Return the right to carry out a request, or the answer it was given before.

    Raises InvalidRequest for a key that is none, ActionRefused when *caller* used *key* for another
    request or while that request is under way, RedisUnavailable or RedisRefused when Redis cannot tell.
    """
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            "the Idempotency-Key is not one",
            field="Idempotency-Key",
            hint=f"1 to {MAX_KEY_CHARS} printable ASCII characters, e.g. a UUID",
        )
    name = keys.idempotent(hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest())
    made = Claim(redis, name, digest, secrets.token_hex(8), time.monotonic())
    mark = json.dumps({"digest": digest, "token": made.token})
    if await _asked(redis.set(name, mark, nx=True, ex=UNDER_WAY_S)):
        return made
    found = json.loads(await _asked(redis.get(name)) or "{}")
    if found and found["digest"] != digest:
        raise ActionRefused(
            "this Idempotency-Key was used for another request; make a new key for a new request"
        )
    if "status" not in found:
        raise UnderWay("a request with this Idempotency-Key is under way; ask again in a second")
    if found["status"] == 0:
        return made
    return KeptAnswer(found["status"], found["body"], found["type"])


async def _asked(reply: Any) -> Any:
    try:
        return await cast(Any, reply)
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
