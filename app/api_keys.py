"""API keys somebody created: kept as digests in Redis, known to every server within two seconds.

A key is ``arqs_<id>_<secret>``: the id is looked up, the 32 random bytes of the secret are compared
by their SHA-256. A fast digest is right here: nobody guesses 256 random bits.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Final, Self, cast

import redis as redis_sync
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from app import keys
from app.errors import ActionRefused, BadRecord, InvalidRequest, NotFound
from app.wire.connections import explained, made

log = logging.getLogger("arqscope.api_keys")

#: keys stored at most, revoked ones included
MAX_KEYS: Final = 1_000
#: s between two looks at Redis: how long a revoked key or an ended session may still open
REFRESH_S: Final = 2.0
#: revoked keys are kept this long, so that the list tells who had one
KEEP_REVOKED_MS: Final = 90 * 86_400_000
#: sessions ended before their time that are remembered
MAX_ENDED: Final = 10_000
_SHAPE: Final = re.compile(r"arqs_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"[\w][\w .@-]{0,63}")
_WHERE: Final = "redis://queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key; its secret is not in it. Times are epoch ms, 0: never."""

    id: str
    name: str
    role: str  #: viewer, operator or admin
    digest: str  #: SHA-256 of the whole key, hex
    created_ms: int
    created_by: str = ""
    expires_ms: int = 0
    revoked_ms: int = 0

    def is_live(self, now_ms: float) -> bool:
        """Whether it opens at *now_ms*."""
        return not self.revoked_ms and (not self.expires_ms or now_ms < self.expires_ms)

    def to_json(self) -> str:
        """Encode for its hash field."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Decode a hash field; BadRecord when it is not one of ours."""
        try:
            raw = json.loads(text)
            known = {f.name for f in fields(cls)}
            key = cls(**{name: value for name, value in raw.items() if name in known})
            if key.role not in ("viewer", "operator", "admin") or len(key.digest) != 64:
                raise ValueError("role or digest")
            return key
        except (ValueError, TypeError, AttributeError) as error:
            raise BadRecord(f"not an API key: {error}") from error


def digest_of(offered: bytes) -> bytes:
    """Digest of a key: equal length for a comparison that takes equal time."""
    return hashlib.sha256(offered).digest()


def id_of(offered: str) -> str:
    """Id part of a key of our shape; empty for every other text."""
    found = _SHAPE.fullmatch(offered)
    return found[1] if found else ""


def new_key(
    name: str, role: str, *, created_by: str, now_ms: int, expires_s: float | None = None
) -> tuple[ApiKey, str]:
    """Make a key: the record to store, and the text that is shown once.

    Raises InvalidRequest for a name, role or lifetime that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"name={name[:80]!r} is not a name for a key",
            field="name",
            hint="letters, digits, space and _.@- only, at most 64",
        )
    if role not in ("viewer", "operator", "admin"):
        raise InvalidRequest(
            f"role={str(role)[:40]!r} is not a role", field="role", hint="viewer, operator or admin"
        )
    if expires_s is not None and not 0 < expires_s <= 10 * 365 * 86_400:
        raise InvalidRequest(
            f"expires={expires_s!r} is out of range", field="expires", hint="up to ten years"
        )
    key_id = secrets.token_hex(4)
    text = f"arqs_{key_id}_{secrets.token_urlsafe(32)}"
    record = ApiKey(
        id=key_id,
        name=name,
        role=role,
        digest=digest_of(text.encode()).hex(),
        created_ms=now_ms,
        created_by=created_by,
        expires_ms=0 if expires_s is None else now_ms + int(expires_s * 1000),
    )
    return record, text


async def stored(redis: Redis) -> list[ApiKey]:
    """Return every stored key, oldest first; raises RedisUnavailable or RedisRefused."""
    try:
        raw = await cast(Any, redis.hgetall(keys.API_KEYS))
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
    return sorted(_decoded(raw).values(), key=lambda key: (key.created_ms, key.id))


async def store(redis: Redis, key: ApiKey) -> None:
    """Store *key*; long revoked ones make room. ActionRefused when 1,000 are there."""
    known = await stored(redis)
    old = [k.id for k in known if k.revoked_ms and k.revoked_ms < key.created_ms - KEEP_REVOKED_MS]
    if len(known) - len(old) >= MAX_KEYS:
        raise ActionRefused(f"there are {MAX_KEYS:,} keys already; revoke some and wait 90 days")
    try:
        async with redis.pipeline(transaction=True) as pipe:
            if old:
                pipe.hdel(keys.API_KEYS, *old)
            pipe.hsetnx(keys.API_KEYS, key.id, key.to_json())
            *_, made = await pipe.execute()
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
    if not made:
        raise ActionRefused("a key of this id exists; create it again")


async def revoke(redis: Redis, key_id: str, now_ms: int) -> bool:
    """Mark a key revoked; False when it was. NotFound, with the known ids, when there is none."""
    known = {key.id: key for key in await stored(redis)}
    if key_id not in known:
        raise NotFound("key", key_id[:40], sorted(known))
    key = known[key_id]
    if key.revoked_ms:
        return False
    gone = ApiKey(**{**asdict(key), "revoked_ms": now_ms})
    try:
        await cast(Any, redis.hset(keys.API_KEYS, key_id, gone.to_json()))
    except (RedisError, OSError) as error:
        raise explained(error, _WHERE) from error
    return True


def _decoded(raw: Mapping[str, str]) -> dict[str, ApiKey]:
    found = {}
    for key_id, text in list(raw.items())[: 2 * MAX_KEYS]:
        try:
            found[key_id] = ApiKey.from_json(text)
        except BadRecord as error:
            log.warning("key skipped", extra={"key": key_id[:20], "problem": str(error)})
    return found


class Keyring:
    """What one process knows of keys and ended sessions; refreshed every 2 s, kept when Redis is away."""

    def __init__(self, redis: Redis | None = None) -> None:
        self._redis = redis
        self._task: asyncio.Task[None] | None = None
        #: whether Redis was ever asked with success; without a Redis there is nothing to know
        self.is_known = redis is None
        self.keys: Mapping[str, ApiKey] = MappingProxyType({})
        self.ended: frozenset[str] = frozenset()
        #: signs sessions where there is no API_KEY; the same in every process
        self.secret = secrets.token_bytes(32)
        #: whether a key was ever seen; never false again, whatever happens to Redis
        self.has_keys = False
        self._to_end: dict[str, int] = {}  #: ended here, and Redis does not know it yet

    def find(self, offered: str, now_ms: float) -> ApiKey | None:
        """Return the live key *offered* is; None for every other text."""
        key = self.keys.get(id_of(offered))
        digest = bytes.fromhex(key.digest) if key else b""
        right = hmac.compare_digest(digest_of(offered.encode("utf-8", "replace")), digest)
        return key if key and right and key.is_live(now_ms) else None

    def preload(self, url: str) -> None:
        """Ask Redis once, blocking, before the server answers anything; it may fail to."""
        with (
            contextlib.suppress(RedisError, OSError),
            redis_sync.Redis.from_pool(
                made(
                    redis_sync.ConnectionPool,
                    url,
                    socket_timeout=1.5,
                    socket_connect_timeout=1.5,
                    decode_responses=True,
                )
            ) as client,
        ):
            if not self._take(self._ask(client.pipeline(transaction=False)).execute()):
                client.set(keys.SESSION_SECRET, secrets.token_hex(32), nx=True)
                self._take(self._ask(client.pipeline(transaction=False)).execute())

    async def refresh(self) -> None:
        """Ask Redis; raises redis-py's errors."""
        if self._redis is None:
            return
        await self._tell()
        async with self._redis.pipeline(transaction=False) as pipe:
            if self._take(await self._ask(pipe).execute()):
                return
        with contextlib.suppress(NoPermissionError):  # a login that reads: our own secret serves
            await self._redis.set(keys.SESSION_SECRET, secrets.token_hex(32), nx=True)

    def start(self) -> None:
        """Keep refreshing in the running loop."""
        if self._redis is not None and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="arqscope-keys")

    async def stop(self) -> None:
        """Stop refreshing."""
        task, self._task = self._task, None
        while task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.2)

    async def end(self, session_id: str, ends_s: int) -> None:
        """Remember everywhere that a session was ended; here at once, even when Redis is away."""
        self._to_end[session_id] = ends_s
        self.ended = self.ended | {session_id}
        with contextlib.suppress(RedisError, OSError):  # the next refresh tries again
            await self._tell()

    async def _tell(self) -> None:
        if self._redis is None or not self._to_end:
            return
        told = dict(list(self._to_end.items())[-MAX_ENDED:])
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(keys.ENDED_SESSIONS, told)
            pipe.zremrangebyscore(keys.ENDED_SESSIONS, "-inf", time.time())
            pipe.zremrangebyrank(keys.ENDED_SESSIONS, 0, -MAX_ENDED - 1)
            await pipe.execute()
        for session_id in told:
            self._to_end.pop(session_id, None)

    def _ask(self, pipe: Any) -> Any:
        pipe.hgetall(keys.API_KEYS)
        pipe.zrange(keys.ENDED_SESSIONS, 0, -1)
        pipe.get(keys.SESSION_SECRET)
        return pipe

    def _take(self, replies: list[Any]) -> bool:
        """Know what Redis said; returns whether there is a secret that all servers share."""
        raw, ended, secret = replies
        if raw != {key_id: key.to_json() for key_id, key in self.keys.items()}:
            self.keys = MappingProxyType(_decoded(raw))
        self.has_keys = self.has_keys or bool(raw)
        self.ended = frozenset(ended) | frozenset(self._to_end)
        self.secret = bytes.fromhex(secret) if secret else self.secret
        self.is_known = True
        return bool(secret)

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except (RedisError, OSError, ValueError) as error:
                log.debug("keys not refreshed", extra={"problem": type(error).__name__})
            await asyncio.sleep(REFRESH_S)
