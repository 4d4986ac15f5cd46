"""Record how runs ended: outcomes are gathered and committed by one fenced script per loop turn."""

import asyncio
import contextlib
import json
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import DataError, NoScriptError, ResponseError

from app import keys
from app.payloads.codec import safe_str
from app.wire.connections import GONE, is_refusal
from app.wire.scripts import script
from workers.cancellation import end

log = logging.getLogger("arqscope.worker")

#: runs per script call
BATCH: Final = 250
#: run reports kept per queue
RUNS_KEPT: Final = 10_000

#: the script's word for a recorded ending whose next job's queue is a key of another kind
NEXT_LOST: Final = 2

COMPLETE, DEAD, ABORTED, RETRY, SHUTDOWN, LAID_BACK = "C", "D", "A", "R", "S", "L"


@dataclass(slots=True)
class Ending:
    """One finished run, ready to be committed; field order is the script's."""

    id: str
    token: str
    kind: str
    result: bytes = b""
    result_ttl_ms: int = 0  #: 0 none, -1 for ever
    report: str = ""
    function: str = ""
    wait_bucket: int | str = ""
    run_bucket: int | str = ""
    delay_ms: int = 0
    attempts: str = ""
    letter: str = ""  #: of a complete run: its next jobs
    on_recorded: Callable[[bool], None] | None = None
    is_plain: bool = False
    e2e_bucket: int | str = ""  #: from accepted to ended; empty when the job goes on

    def plain(self, why: str, queue: str) -> "Ending":
        """Return this ending without anything the job wrote: only what became of it."""
        letter = {"kind": "job", "source": queue, "name": "?", "reason": "unrecordable"}
        letter |= {"error_type": "Unrecordable", "error": why, "attempts": "1"}
        return replace(
            self,
            result=b"",
            result_ttl_ms=0,
            report="{}",
            function="?",
            attempts=self.attempts.partition("|")[0] + "|" if self.attempts else "",
            letter=json.dumps(letter) if self.letter and self.kind != COMPLETE else self.letter,
            is_plain=True,
        )


class Outbox:
    """Endings on their way to Redis. Nothing leaves it before Redis answered, however long it takes.

    A job whose ending waits here keeps its lease, and is never run again because its result could
    not be stored.
    """

    def __init__(self, redis: Redis, queue: str, *, on_trouble: Callable[[str], None]) -> None:
        self._redis = redis
        self._queue = queue
        self._on_trouble = on_trouble
        self._waiting: deque[Ending] = deque()
        self._sending: list[Ending] = []
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sending)

    def start(self) -> None:
        """Begin to send."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def put(self, ending: Ending) -> None:
        """Take one ending; it goes out with those of the same loop turn."""
        self._waiting.append(ending)
        self._arrived.set()
        self._empty.clear()

    async def drained(self) -> None:
        """Wait until Redis has answered for everything put so far."""
        await self._empty.wait()

    async def stop(self) -> None:
        """Stop sending; what was not committed stays leased and falls due at its lease end."""
        if self._task is not None:
            await end([self._task])

    async def _run(self) -> None:
        pause_s = 0.05
        while True:
            if not self._sending:
                if not self._waiting:
                    self._empty.set()
                    self._arrived.clear()
                    await self._arrived.wait()
                await asyncio.sleep(0)  # let the other runs of this loop turn end too
                while self._waiting and len(self._sending) < BATCH:
                    self._sending.append(self._waiting.popleft())
            try:
                recorded = await self._send(self._sending)
            except Exception as error:  # also redis-py's own, of a connection closed under it
                if _is_unsendable(error):
                    self._isolate(error)
                    continue
                self._on_trouble(f"cannot record {len(self)} outcomes: {safe_str(error, 200)}")
                if is_refusal(error):
                    with contextlib.suppress(Exception):  # closing what is broken ends no sending
                        await self._redis.connection_pool.disconnect(inuse_connections=False)
                await asyncio.sleep(pause_s * (0.5 + random.random()))  # noqa: S311
                pause_s = min(1.0, pause_s * 2)
                continue
            pause_s = 0.05
            sent, self._sending = self._sending, []
            for ending, accepted in zip(sent, recorded, strict=True):
                if not accepted:
                    log.warning(
                        "outcome refused, the lease is lost",
                        extra={"job": ending.id, "kind": ending.kind},
                    )
                if accepted == NEXT_LOST:
                    log.error(
                        "next job not placed: its queue is no queue", extra={"job": ending.id}
                    )
                _tell(ending, recorded=bool(accepted))

    def _isolate(self, error: Exception) -> None:
        """Find the ending that cannot be recorded, halving the batch; alone, send it without words.

        One job's odd text must not keep the endings of all others from being recorded.
        """
        sending = self._sending
        if len(sending) > 1:
            half = len(sending) // 2
            self._waiting.extendleft(reversed(sending[half:]))
            self._sending = sending[:half]
            return
        ending = sending[0]
        if ending.is_plain:
            log.critical(
                "outcome given up", extra={"job": ending.id, "error": safe_str(error, 200)}
            )
            self._sending = []
            _tell(ending, recorded=False)  # its lease runs out, the next worker decides
            return
        log.error("outcome sent without words", extra={"job": ending.id, "error": safe_str(error)})
        self._sending = [ending.plain(safe_str(error, 200), self._queue)]

    async def _send(self, endings: list[Ending]) -> list[int]:
        queue = self._queue
        args: list[Any] = [
            keys.ARQ_IN_PROGRESS,
            keys.ARQ_JOB,
            keys.ARQ_RESULT,
            keys.ARQ_RETRY,
            keys.dead_record(queue, ""),
            keys.dead_payload(queue, ""),
            RUNS_KEPT,
            keys.vault(queue, ""),
        ]
        for e in endings:
            args += (
                e.id,
                e.token,
                e.kind,
                e.result,
                e.result_ttl_ms,
                e.report,
                e.function,
                e.wait_bucket,
                e.run_bucket,
                e.delay_ms,
                e.attempts,
                e.letter,
                e.e2e_bucket,
            )
        reply: list[int] = await script(__file__, "finish").run(
            self._redis,
            [
                queue,
                keys.running(queue),
                keys.attempts(queue),
                keys.wake(queue),
                keys.totals(queue),
                keys.runs(queue),
                keys.minute_prefix(queue),
                keys.dead_open(queue),
                keys.dead_retrying(queue),
                keys.dead_closed(queue),
                keys.ARQ_ABORT,
            ],
            args,
        )
        return reply


def _tell(ending: Ending, *, recorded: bool) -> None:
    """Say what became of *ending*; an error of whoever listens must not end the sending."""
    try:
        if ending.on_recorded is not None:
            ending.on_recorded(recorded)
    except Exception:
        log.exception("recorded, but not told", extra={"job": ending.id})


def _is_unsendable(error: Exception) -> bool:
    """Whether sending *error*'s batch again cannot help: it is what the endings hold."""
    if isinstance(error, UnicodeError | DataError):
        return True
    passing = ("BUSY", "LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")
    return (
        isinstance(error, ResponseError)
        and not isinstance(error, (*GONE, NoScriptError))
        and not is_refusal(error)
        and not str(error).startswith(passing)
    )


def letter_json(fields: dict[str, Any]) -> str:
    """Encode a dead letter's fields for the script: an object of strings."""
    return json.dumps({name: str(value) for name, value in fields.items()})
