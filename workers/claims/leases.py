"""Keep the leases of running jobs alive from a thread of their own.

Job code that blocks the event loop must not lose its lease, so renewal does not run on the loop.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from redis import ConnectionPool, Redis
from redis.exceptions import NoScriptError

from app import keys
from app.payloads.codec import safe_str
from app.wire.scripts import script

log = logging.getLogger("arqscope.worker")

#: Parts of the lease between two renewals, and that one may take: after a renewal that worked, three
#: tries begin before the lease ends, though each waits in vain (1/6 + 2/4 and two pauses < 1).
INTERVAL_SHARE: Final = 1 / 6
TIMEOUT_SHARE: Final = 1 / 4
#: s of the same at most: together they bound how late a silent Redis is noticed, within 10 s
INTERVAL_S: Final = 3.0
TIMEOUT_S: Final = 5.0
#: s from a try that failed to the next; doubled up to the interval
AGAIN_S: Final = 0.2
BATCH: Final = 500


def renewal_timeout_s(lease_s: float) -> float:
    """How long one renewal may take."""
    return min(TIMEOUT_S, lease_s * TIMEOUT_SHARE)


class LeaseKeeper:
    """Renews the leases in ``held`` (job id → token) until they are released.

    ``on_lost`` is called from the renewing thread with the ids that went to another worker.
    ``silent_s`` tells how long ago the last renewal succeeded.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        queue: str,
        *,
        lease_s: float,
        on_lost: Callable[[list[str]], None],
    ) -> None:
        self.held: dict[str, str] = {}
        self._queue = queue
        self._lease_s = lease_s
        self._on_lost = on_lost
        self._redis = Redis(connection_pool=pool)
        self._stop = threading.Event()
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="arqscope-leases", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the renewing thread still runs."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the last successful renewal."""
        return time.monotonic() - self._renewed_at

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases still held run out by themselves."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=6)
        self._redis.close()

    def _run(self) -> None:
        pause_s = min(INTERVAL_S, self._lease_s * INTERVAL_SHARE)
        wait_s = pause_s
        failures = 0
        while not self._stop.wait(wait_s):
            began = time.monotonic()  # the lease counts from when Redis was told, which is later
            try:
                self._renew()
            except Exception as error:  # a bug here must not end the renewals of every job
                with contextlib.suppress(Exception):  # another server may answer to the name by now
                    self._redis.connection_pool.disconnect()
                failures += 1
                level = logging.ERROR if failures == 1 else logging.DEBUG
                log.log(level, "leases not renewed", extra={"error": safe_str(error, 200)})
                wait_s = min(pause_s, AGAIN_S * 2 ** min(failures - 1, 10))
            else:
                if failures:
                    log.warning("leases renewed again", extra={"silent_s": round(self.silent_s, 1)})
                failures = 0
                self._renewed_at = began
                wait_s = pause_s

    def _renew(self) -> None:
        held = list(self.held.items())
        if not held:
            self._redis.ping()
            return
        renew = script(__file__, "renew")
        lost: list[str] = []
        for start in range(0, len(held), BATCH):
            flat = [text for pair in held[start : start + BATCH] for text in pair]
            arguments: list[Any] = [
                self._queue,
                keys.running(self._queue),
                keys.ARQ_IN_PROGRESS,
                int(self._lease_s * 1000),
                *flat,
            ]
            try:
                gone: Any = self._redis.evalsha(renew.sha, 2, *arguments)
            except NoScriptError:
                self._redis.script_load(renew.source)
                gone = self._redis.evalsha(renew.sha, 2, *arguments)
            lost += [job_id.decode("utf-8", "surrogateescape") for job_id in gone]
        # a job that ended between the copy of `held` and the reply has released its lease itself, and may
        # have been claimed again under another token
        tokens = dict(held)
        lost = [one for one in lost if one in tokens and self.held.get(one) == tokens[one]]
        if lost:
            self._on_lost(lost)
