"""The worker: arq's, with its loop, claim, run and finish replaced. Same Redis format, no losses.

``claiming`` hands due jobs to ``runs.runner``, ``runs.endings`` says how each ended, ``runs.outcomes`` commits
the endings, ``claims.leases`` keeps what runs claimed; this module ties them together: the worker's life.
"""

import asyncio
import contextlib
import importlib.metadata
import inspect
import json
import logging
import random
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from signal import Signals
from typing import Any, Final, cast

import arq.worker
from redis.exceptions import RedisError

from app import __version__
from app.errors import SettingsError
from app.payloads.codec import Codec, safe_str
from workers.cancellation import STOP_GRACE_S, end
from workers.claims import pools
from workers.claims.admission import Admission
from workers.claims.leases import LeaseKeeper, renewal_timeout_s
from workers.claims.wakeups import Wakeups
from workers.engine.claiming import ROUND_S, Claiming, until_set
from workers.engine.options import EngineOptions
from workers.engine.patience import Patience
from workers.engine.schedules import Schedules
from workers.engine.supervision import fence, supervise
from workers.heartbeat import GOODBYE_S, Heartbeat, sources_alive
from workers.retry_policy import RetryPolicy
from workers.runs.outcomes import Outbox
from workers.runs.runner import Runner

log = logging.getLogger("arqscope.worker")

#: the releases of arq whose worker this engine was tested against
TESTED_ARQ: Final = ("0.28.",)


class Worker(arq.worker.Worker):
    """arq's worker with leases, batches, fenced endings and dead letters.

    Takes arq's own arguments; ``ctx["arqscope"]`` may hold EngineOptions.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        version = importlib.metadata.version("arq")
        if not version.startswith(TESTED_ARQ):
            raise SettingsError(
                f"arq {version} was not tested with this worker; install arq {TESTED_ARQ[0]}x"
            )
        given = dict(kwargs.get("ctx") or {})
        options = given.pop("arqscope", None)
        kwargs["ctx"] = given
        super().__init__(*args, **kwargs)
        self.stock = options is None
        self.options: EngineOptions = options or EngineOptions(
            policy=RetryPolicy(attempts=self.max_tries, retry_errors=False)
        )
        self.id = ""
        self.trouble = ""
        self.quiet = False
        self._trouble_at = 0.0
        self._draining = False
        self._signals = 0
        self._outbox: Outbox | None = None
        self._leases: LeaseKeeper | None = None
        self._runner: Runner | None = None
        self.admission = Admission(self)
        self.schedules = Schedules(self.cron_jobs, self.timezone)
        self.slot_free = asyncio.Event()
        self.stop_wanted = asyncio.Event()
        self._side_tasks: list[asyncio.Task[Any]] = []
        self._wakeups: Wakeups | None = None
        self._patience: Patience | None = None
        self.claiming = Claiming(self)
        self._main: asyncio.Task[Any] | None = None  #: what runs ``main``
        self._connected = False  #: whether Redis ever answered: hooks run then alone

    # -- life ----------------------------------------------------------------------------------

    async def main(self) -> None:
        """Run until stopped (or, in burst mode, until the queue is empty)."""
        self.loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        try:
            await self._main_until_stopped()
        finally:
            self._main = None

    async def _main_until_stopped(self) -> None:
        if not await self._connect():
            return
        if self.job_serializer is None and self.options.codec is not None:
            self.pool.job_serializer = self.options.codec.encode
            self.pool.job_deserializer = self.options.codec.decode
        self.ctx["redis"] = self.pool
        heartbeat = Heartbeat(
            self.pool, "worker", self.queue_name,
            describe=self._describe, beat_file=self.options.beat_file,
        )  # fmt: skip
        self.id = heartbeat.id
        outbox = self._outbox = Outbox(self.pool, self.queue_name, on_trouble=self._on_trouble)
        self._wakeups = Wakeups(
            self.pool,
            self.queue_name,
            poll_s=self.poll_delay_s,
            on_trouble=self._on_trouble,
            on_control=self._obey,
        )
        lease_s = self.options.lease_s
        leases = self._leases = LeaseKeeper(
            pools.for_renewals(self.pool.connection_pool, timeout_s=renewal_timeout_s(lease_s)),
            self.queue_name,
            lease_s=lease_s,
            on_lost=self._leases_lost,
        )
        self._runner = Runner(self, outbox, leases)
        if self.on_startup:
            await self.on_startup(self.ctx)
        log.info("worker started", extra={"worker": self.id, "queue": self.queue_name})
        outbox.start()
        leases.start()
        if not self.burst:
            await heartbeat.start()
            self._spawn(self.wakeups.listen())
        self._spawn(fence(self, on_trouble=self._on_trouble))
        self._spawn(supervise(self, on_trouble=self._on_trouble, on_slots=self.slot_free.set))
        if self.options.job_events is not None:
            self._spawn(self.options.job_events.run())
        try:
            await self._first_beat()
            await self.claiming.run(on_trouble=self._on_trouble)
            await self._finish_running()
        except BaseException:  # cancelled, or broken: what runs goes back before its leases end
            self._draining = True
            self._signals = 2
            await self._finish_running()
            raise
        finally:
            await end(self._side_tasks)
            self._side_tasks.clear()
            if not self.burst:
                await heartbeat.stop()
            await self.runner.endings.sampler.stop()
            await outbox.stop()
            with contextlib.suppress(Exception):  # the ends of ticks are no one's truth
                async with asyncio.timeout(GOODBYE_S):
                    await self.schedules.store(self.pool, self.queue_name)
            if self.options.job_events is not None:
                await self.options.job_events.close()
            await asyncio.get_running_loop().run_in_executor(None, leases.stop)
            await self.wakeups.close()
            await self.claiming.close()

    async def _first_beat(self) -> None:
        """Do what arq does before its first look: health sentinel, cron jobs that are due."""
        try:
            await self.heart_beat()
        except (RedisError, OSError) as error:  # supervision beats again
            self._on_trouble(f"no first beat: {safe_str(error, 200)}")

    async def close(self) -> None:
        """Stop as on a signal where it still runs, run the shutdown hook, close the connections."""
        if self._main is not None and self._main is not asyncio.current_task():
            if not self._draining:
                self.handle_sig(signal.SIGUSR1)
            await asyncio.wait([self._main])
        if not self._pool:
            return
        if self._connected:
            await self._withdraw_health()
        if self.on_shutdown and self._connected:
            try:
                await self.on_shutdown(self.ctx)
            except Exception:
                log.exception("on_shutdown raised")
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None

    async def _withdraw_health(self) -> None:
        """Remove arq's health sentinel, unless another worker of the queue lives by it."""
        try:
            async with asyncio.timeout(GOODBYE_S):
                if self.queue_name not in await sources_alive(self.pool, "worker"):
                    await self.pool.delete(self.health_check_key)
        except Exception as error:  # it expires by itself
            log.warning("health sentinel not removed", extra={"error": safe_str(error, 200)})

    def handle_sig(self, signum: Signals) -> None:
        """Drain: claim nothing more, let running jobs end; a second signal cancels them now."""
        self._signals += 1
        self.allow_pick_jobs = False
        self._draining = True
        log.info("stopping", extra={"signal": Signals(signum).name, "running": len(self.tasks)})
        self.stop_wanted.set()
        self._stir()
        if self.on_stop:
            self.on_stop(Signals(signum))

    def handle_sig_wait_for_completion(self, signum: Signals) -> None:
        """Do as ``handle_sig``: this worker always lets running jobs end within the drain time."""
        self.handle_sig(signum)

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Refuse: a job started past the claim has no lease; ``main`` starts what is due."""
        if job_ids:
            raise RuntimeError(
                "start_jobs() would run jobs without a lease; use main() in burst mode"
            )

    async def run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002 - as arq calls it
        """Refuse, as ``start_jobs`` does."""
        await self.start_jobs([job_id.encode()])

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Do as arq does, and keep a tick that could not be enqueued for the next round.

        Its id is its own, so that asking again makes one job.
        """
        before = [(job, job.next_run) for job in self.cron_jobs or ()]
        try:
            await super().run_cron(n, delay, num_windows)
        except Exception:
            for job, was in before:
                if job.unique or job.job_id:
                    job.next_run = was or (n if job.run_at_startup else job.next_run)
            raise

    @property
    def codec(self) -> Codec | None:
        """What payloads and results are read and written with; None: arq's serializers."""
        return self.options.codec if self.job_deserializer is None else None

    @property
    def draining(self) -> bool:
        """Whether the worker is on its way out."""
        return self._draining

    def _obey(self, data: bytes) -> None:
        try:
            message = json.loads(data)
            action, target = message["action"], message.get("worker")
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("control message ignored", extra={"data": safe_str(data, 200)})
            return
        if target not in (None, self.id):
            return
        log.info("control", extra={"action": action})
        if action == "quiet":
            self.quiet = True
        elif action == "resume":
            self.quiet = False
        elif action == "stop":
            self.handle_sig(Signals.SIGTERM)
        self._stir()

    async def _finish_running(self) -> None:
        """Let running jobs end within the drain time, then lay the rest back for free."""
        drain_s = self.options.drain_s
        if drain_s is None:
            drain_s = float(self._job_completion_wait)
        if self.burst and not self._draining:
            drain_s = float("inf")
        until = time.monotonic() + drain_s
        while self.tasks and self._signals < 2 and time.monotonic() < until:
            self.slot_free.clear()
            await until_set(self.slot_free, ROUND_S)
        if self.tasks:
            self.runner.stop_all("the worker stops")
            until = time.monotonic() + STOP_GRACE_S
            while self.tasks and time.monotonic() < until:
                self.slot_free.clear()
                await until_set(self.slot_free, ROUND_S)
            self.runner.lay_back_stubborn()
        try:
            # what Redis will not take now stays leased, falls due by itself, and runs again
            async with asyncio.timeout(self.options.lease_s):
                await self.outbox.drained()
        except TimeoutError:
            log.error("outcomes not recorded", extra={"count": len(self.outbox)})

    # -- odds and ends -------------------------------------------------------------------------

    @property
    def outbox(self) -> Outbox:
        """Endings on their way to Redis."""
        return cast(Outbox, self._outbox)

    @property
    def leases(self) -> LeaseKeeper:
        """Keeps what runs claimed."""
        return cast(LeaseKeeper, self._leases)

    @property
    def patience(self) -> Patience:
        """How long this worker waits for Redis."""
        return cast(Patience, self._patience)

    @property
    def runner(self) -> Runner:
        """Runs claimed jobs."""
        return cast(Runner, self._runner)

    @property
    def wakeups(self) -> Wakeups:
        """How this worker learns of work."""
        return cast(Wakeups, self._wakeups)

    def jobs_started(self) -> int:
        """Jobs this worker has begun, for burst mode's limit."""
        return int(self._jobs_started())

    def slot_freed(self) -> None:
        """A run ended: claim the next job at once."""
        self._stir()

    def _stir(self) -> None:
        self.slot_free.set()
        if self._wakeups is not None:
            self._wakeups.stir()

    def _on_trouble(self, text: str) -> None:
        self.trouble = text
        now = time.monotonic()
        if now - self._trouble_at > 5:  # loud, but not a flood
            self._trouble_at = now
            log.error("worker in trouble", extra={"worker": self.id, "trouble": text})

    def _describe(self) -> Mapping[str, Any]:
        state = "draining" if self._draining else "quiet" if self.quiet else "running"
        return {
            "slots": self.max_jobs,
            "busy": len(self.tasks),
            "state": "degraded" if self.trouble else state,
            "trouble": self.trouble,
            "functions": ",".join(sorted(self.functions)),
            "version": self.options.release or __version__,
            "jobs": json.dumps(self.runner.running()[:50]) if self._runner else "[]",
            **self.schedules.describe(),
            **(self.options.job_events.describe() if self.options.job_events else {}),
        }

    def _spawn(self, coroutine: Any) -> None:
        self._side_tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def _connect(self) -> bool:
        """Wait for Redis; False: told to stop before. A burst gives up with RedisRefused or RedisUnavailable."""
        if self._pool is None:
            self._pool = await pools.pool_of(self)
        pool = self._pool.connection_pool
        patience = self._patience = Patience(self.options, pool, burst=self.burst)
        pause_s = 0.1
        while not self._draining:
            try:
                await self._pool.ping()
            except (RedisError, OSError) as error:
                patience.at_start(error)
                self._on_trouble(f"cannot reach Redis: {patience.told(error)}")
                await until_set(self.stop_wanted, pause_s * (0.5 + random.random()))  # noqa: S311
                pause_s = min(1.0, pause_s * 2)
            else:
                self.trouble = ""
                self._connected = True
                patience.renew()
                return True
        return False

    def _leases_lost(self, ids: list[str]) -> None:
        self.loop.call_soon_threadsafe(self.runner.lost, ids)


Worker.__signature__ = inspect.signature(arq.worker.Worker.__init__).replace(  # type: ignore[attr-defined]
    parameters=[
        p
        for name, p in inspect.signature(arq.worker.Worker.__init__).parameters.items()
        if name != "self"
    ]
)


def install() -> None:
    """Make the stock ``arq`` command build this worker instead of arq's."""
    arq.worker.Worker = Worker  # type: ignore[misc]


__all__ = ["Worker", "install"]
