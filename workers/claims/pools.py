"""The connections of one worker: its pool by the recipe, claims that never repeat, renewals by a thread."""

from typing import TYPE_CHECKING, Any, Final, cast

import redis
from arq.connections import ArqRedis, RedisSettings, create_pool
from redis.asyncio import ConnectionPool, Redis, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.errors import SettingsError
from app.sentinels import Seeking, Watched, pool_watching
from app.wire.connections import gated, made, pool_arguments, prepared

if TYPE_CHECKING:
    from workers.engine.worker import Worker

#: what a connection without event loop needs of one with, to reach the same server as the same user
_WHERE: Final = ("host", "port", "path", "db", "username", "password", "credential_provider")
_RECIPE_S: Final = 6.0


async def pool_of(worker: "Worker") -> ArqRedis:
    """Make the client jobs and scripts use: of the options' URL, else of arq's ``redis_settings``."""
    # ids are bytes to Redis; what is not UTF-8 must come back as it was
    recipe = pool_arguments(timeout_s=_RECIPE_S, retries=1)
    recipe |= {"encoding_errors": "surrogateescape"}
    theirs: dict[str, Any] = {
        "job_serializer": worker.job_serializer,
        "job_deserializer": worker.job_deserializer,
        "default_queue_name": worker.queue_name,
        "expires_extra_ms": worker.expires_extra_ms,
    }
    url = worker.options.url
    if url:
        if url.startswith("unix:"):
            _without_keepalive(recipe)
        return ArqRedis(prepared(made(ConnectionPool, url, **recipe)), **theirs)
    settings = worker.redis_settings
    if settings is not None and settings.sentinel:
        following = pool_watching(ConnectionPool, _watched(settings), recipe)
        return ArqRedis(prepared(following), **theirs)
    client: ArqRedis = await create_pool(settings, **theirs)
    pool = prepared(client.connection_pool)
    if "path" in pool.connection_kwargs:
        _without_keepalive(recipe)
    pool.connection_kwargs.update(recipe)
    await pool.disconnect()
    cast(Any, pool).reset()  # arq's own ping made a connection without any of this
    return client


def _watched(settings: RedisSettings) -> Watched:
    """What arq's settings say of sentinels; SettingsError when they name none."""
    if isinstance(settings.host, str) or not settings.host:
        raise SettingsError("redis_settings.sentinel: host must be a list of (host, port)")
    return Watched(
        sentinels=tuple((str(host), int(port)) for host, port in settings.host),
        master=settings.sentinel_master,
        database=settings.database,
        username=settings.username,
        password=settings.password,
        is_tls=settings.ssl,
    )


def for_claims(pool: ConnectionPool) -> Redis:
    """Return a client that repeats nothing: a claim repeated unasked hides that its first reply was lost."""
    arguments = dict(pool.connection_kwargs)
    arguments["connection_class"] = pool.connection_class
    arguments["retry"] = Retry(NoBackoff(), 0)
    return Redis.from_pool(ConnectionPool(**arguments))


def for_renewals(pool: ConnectionPool, *, timeout_s: float) -> redis.ConnectionPool:
    """Return a pool to the same server for a thread, which has no event loop."""
    given = pool.connection_kwargs
    arguments: dict[str, Any] = {
        name: value for name, value in given.items() if name in _WHERE or name.startswith("ssl_")
    }
    arguments |= {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "encoding_errors": "surrogateescape",
    }
    kind: type[redis.Connection | redis.UnixDomainSocketConnection] = redis.Connection
    if issubclass(pool.connection_class, UnixDomainSocketConnection):
        kind = redis.UnixDomainSocketConnection
    else:
        arguments["socket_keepalive"] = True
        if issubclass(pool.connection_class, SSLConnection):
            kind = redis.SSLConnection
    if issubclass(pool.connection_class, Seeking):
        of = given["discovery"].of
        return gated(pool_watching(redis.ConnectionPool, of, _beside(arguments, of.login())))
    return gated(redis.ConnectionPool(connection_class=kind, **arguments))


def _beside(arguments: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in known}


def _without_keepalive(recipe: dict[str, Any]) -> None:
    """A socket file has no TCP to keep alive, and its connections refuse the words."""
    del recipe["socket_keepalive"], recipe["socket_keepalive_options"]
