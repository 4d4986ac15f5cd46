"""Settings classes for the stock ``arq`` command, and the same worker for ``arqscope worker``.

Importing this module makes ``arq workers.settings.AsyncProcessing`` build our worker (engine.install).
"""

import asyncio
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from arq.connections import RedisSettings
from arq.cron import CronJob
from arq.worker import Function, func
from redis.exceptions import RedisError

from app import keys, logs
from app.declarations import QueuePolicy
from app.doctor.preflight import check
from app.enqueue import codec_of
from app.errors import SettingsError
from app.sentinels import watched, watches
from app.settings import Settings
from app.streams.notifications import notification, send
from app.wire.connections import connect
from workers.engine import worker as engine
from workers.engine.options import EngineOptions
from workers.jobs import BUILT_IN
from workers.retry_policy import RetryPolicy
from workers.runs.job_events import JobEvents
from workers.runs.sync_functions import in_child_process

try:
    import uvloop
except ImportError:  # no wheel for this platform: asyncio's own loop serves
    uvloop = None  # type: ignore[assignment]

engine.install()
log = logging.getLogger("arqscope.worker")


def functions(settings: Settings) -> list[Function]:
    """Return the built-in functions and the user's own (``ARQSCOPE_FUNCTIONS``), ours first."""
    found: dict[str, Callable[..., Any]] = dict(BUILT_IN)
    for module in _modules(settings):
        found.update(_job_functions(module))
    return [func(_runnable(f), name=name) for name, f in found.items()]


def cron_jobs(settings: Settings, queue: str) -> list[CronJob]:
    """Return what the user's modules want run by itself on *queue*: their ``cron_jobs``, by queue."""
    found: list[CronJob] = []
    for module in _modules(settings):
        wanted = getattr(module, "cron_jobs", {})
        jobs = wanted.get(queue, []) if isinstance(wanted, dict) else None
        if not isinstance(jobs, list | tuple) or not all(isinstance(j, CronJob) for j in jobs):
            raise SettingsError(
                f"cron_jobs of {module.__name__} is not a dict of queues with lists of arq.cron(...): "
                f'for example cron_jobs = {{"{queue}": [cron(nightly, hour=3, minute=30)]}}'
            )
        found += jobs
    return found


def _modules(settings: Settings) -> list[ModuleType]:
    found = []
    for name in filter(None, (part.strip() for part in settings.functions.split(","))):
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise SettingsError(
                f"ARQSCOPE_FUNCTIONS={settings.functions!r}: cannot import {name!r} ({error})"
            ) from error
    return found


def _job_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Public functions defined in *module* whose first parameter is ``ctx``."""
    found: dict[str, Callable[..., Any]] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(value):
            continue
        parameters = list(inspect.signature(value).parameters)
        if value.__module__ == module.__name__ and parameters[:1] == ["ctx"]:
            found[name] = value
    return found


def _runnable(function: Callable[..., Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return function
    return in_child_process(function)


def redis_settings(url: str) -> RedisSettings:
    """Return *url* as arq's settings, for ``arq --check``; arq's own from_dsn keeps %-escapes."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return RedisSettings(unix_socket_path=parts.path)
    if watches(url):
        of = watched(url)
        return RedisSettings(
            host=list(of.sentinels),
            sentinel=True,
            sentinel_master=of.master,
            database=of.database,
            username=of.username,
            password=of.password,
            ssl=of.is_tls,
            conn_retries=1,
        )
    tls = dict(parse_qsl(parts.query))
    return RedisSettings(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 6379,
        database=int(parts.path.strip("/") or 0),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        ssl=parts.scheme == "rediss",
        ssl_check_hostname=parts.scheme == "rediss",
        ssl_ca_certs=tls.get("ssl_ca_certs"),
        ssl_certfile=tls.get("ssl_certfile"),
        ssl_keyfile=tls.get("ssl_keyfile"),
        conn_retries=1,
    )


def worker_settings(queue: str, settings: Settings | None = None) -> dict[str, Any]:
    """Return arq's settings of the worker of *queue*; NotFound names the declared queues."""
    settings = settings or Settings.load()
    policy: QueuePolicy = settings.queue(queue)
    names = settings.names_of(settings.placement.server_of(queue))

    async def startup(ctx: dict[str, Any]) -> None:
        cache = ctx["cache"] = connect(settings.url("cache"))

        async def notify(data: Mapping[str, Any]) -> int:
            if data.get("workspaceId"):
                channel = keys.workspace_channel(str(data["workspaceId"]))
            elif data.get("userId"):
                channel = keys.user_channel(str(data["userId"]))
            else:
                channel = keys.BROADCAST_CHANNEL
            kind = str(data.get("type", "notification"))
            return await send(cache, channel, notification(data.get("message", ""), kind))

        ctx["notify"] = notify
        await check(settings, (settings.placement.server_of(queue),))

    async def shutdown(ctx: dict[str, Any]) -> None:
        try:
            await ctx["cache"].aclose(close_connection_pool=True)
        except (RedisError, OSError):
            log.warning("cache connection did not close cleanly")

    return {
        "functions": functions(settings),
        "cron_jobs": cron_jobs(settings, queue),
        "queue_name": queue,
        "redis_settings": redis_settings(settings.url_of_queue(queue)),
        "on_startup": startup,
        "on_shutdown": shutdown,
        "max_jobs": settings.concurrency,
        "job_timeout": policy.timeout_s,
        "max_tries": policy.attempts,
        "keep_result": policy.keep_result_s,
        "poll_delay": 0.5,
        "health_check_interval": 10,
        "allow_abort_jobs": True,
        "ctx": {
            "arqscope": EngineOptions(
                url=settings.url_of_queue(queue),
                setting=names[0],
                login_setting=names[1],
                policy=RetryPolicy(
                    attempts=policy.attempts,
                    base_s=policy.backoff_s,
                    cap_s=policy.backoff_cap_s,
                    crashes=policy.crashes,
                ),
                codec=codec_of(settings, worker=True),
                lease_s=settings.lease_s,
                drain_s=settings.drain_s,
                generic_jobs=settings.generic_jobs,
                release=settings.release,
                placement=settings.placement,
                beat_file=settings.beat_file,
                job_events=JobEvents(settings) if settings.job_events else None,
            )
        },
    }


def run(queue: str, *, burst: bool = False) -> None:
    """Run the worker of *queue* until SIGTERM or SIGINT; in burst mode until the queue is empty."""
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    if uvloop is not None:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    engine.Worker(**worker_settings(queue, settings), burst=burst).run()


def _class_of(queue: str) -> type[Any]:
    """Make the class the stock command reads: attributes on the class itself, arq ignores bases."""
    return type(_class_name(queue), (), {"__module__": __name__, **worker_settings(queue)})


def _class_name(queue: str) -> str:
    return "".join(part.capitalize() for part in queue.replace("_", "-").split("-"))


def __getattr__(name: str) -> Any:
    """Build ``LongRunningJobs``, ``AsyncProcessing`` … on demand, one class per declared queue."""
    if name.startswith("_"):
        raise AttributeError(name)
    for queue in Settings.load().queue_names:
        if _class_name(queue) == name:
            if uvloop is not None and not _loop_runs():
                asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
            _log_our_way()
            made = _class_of(queue)
            globals()[name] = made
            return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _log_our_way() -> None:
    """Under the stock command, arq's lines and ours leave by one handler, in the form that is set."""
    cli: Any = sys.modules.get("arq.cli")
    if cli is not None:
        settings = Settings.load()
        logs.configure(settings.log_level, settings.log_format, settings.secrets())
        cli.default_log_config = lambda verbose: {"version": 1, "disable_existing_loggers": False}  # noqa: ARG005


def _loop_runs() -> bool:
    """Whether a running event loop forbids changing the loop policy."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    run(sys.argv[1], burst="--burst" in sys.argv[2:])
