"""Hazards of the queues: what arq leaves behind, what stock workers do, what will not run. Pure."""

from collections.abc import Iterator
from typing import Final

from app import keys
from app.doctor.findings import Finding, Severity
from app.doctor.queues import Misplaced, Queue, Queues
from app.settings import Settings

#: the queue_read_limit of a stock worker at its defaults: more locked ids at the head hide the rest
STOCK_READ_LIMIT: Final = 100
#: ms before its end that a payload is told of
SOON_MS: Final = 3_600_000
#: ms a stock lock of a job without a timeout lasts
NO_TIMEOUT_MS: Final = 10_000
#: s due work may wait while slots are free
STARVED_S: Final = 60.0


def hazards_of(found: Queues, settings: Settings) -> Iterator[Finding]:
    """What is wrong with the queues."""
    yield from _leftovers(found)
    yield from (_stray(found.server, one) for one in found.misplaced)
    for queue in found.queues:
        yield from _payloads(queue)
        yield from _stock(queue)
        yield from _work(queue)
        cap = settings.dead_letter_cap
        if queue.dead_open > 0.8 * cap:
            yield _finding(
                queue, "dead-letters-cap", Severity.WARNING,
                "Dead letters near their cap: the oldest will be moved to a file.",
                f"{queue.dead_open:,} open of {cap:,}",
                "decide on them: arqscope dlq causes; see that ARQSCOPE_DATA_DIR is kept",
            )  # fmt: skip


def _finding(
    queue: Queue, hazard: str, severity: Severity, sentence: str, evidence: str, remedy: str
) -> Finding:
    return Finding(
        hazard=hazard, severity=severity, where=f"queue {queue.name}", sentence=sentence,
        evidence=evidence, remedy=remedy,
    )  # fmt: skip


def _stray(server: str, one: Misplaced) -> Finding:
    return Finding(
        hazard="misplaced-queue", severity=Severity.CRITICAL if one.jobs else Severity.WARNING,
        where=f"queue {one.name}",
        sentence="It left jobs or dead letters on a queue server that does not hold it: no worker runs them there.",
        evidence=f"{one.jobs:,} jobs, {one.letters:,} open dead letters on {server}; placed on {one.holder}",
        remedy=f"with the REDIS_QUEUE_SHARDS of before: arqscope worker {one.name} --burst, and decide on its "
        "letters; or place the queue back",
    )  # fmt: skip


def _leftovers(found: Queues) -> Iterator[Finding]:
    if found.stale_aborts:
        hit = found.aborts_of_waiting
        age_h = (found.now_ms - found.oldest_abort_ms) / 3_600_000
        yield Finding(
            hazard="stale-aborts", severity=Severity.CRITICAL if hit else Severity.WARNING,
            where=f"redis {found.server}",
            sentence="Abort ids that nobody removes: the next job of such an id is aborted before it starts.",
            evidence=f"{found.stale_aborts:,} older than 1 h, the oldest {age_h:.0f} h"
            + (f"; {len(hit)} of them waits now: {_some(hit)}" if hit else ""),
            remedy="our workers remove them; with stock workers: ZREMRANGEBYSCORE arq:abort 2 <ms, an hour ago>",
        )  # fmt: skip
    if found.parcels:
        yield Finding(
            hazard="parcels", severity=Severity.WARNING if found.parcels > 1_000 else Severity.NOTICE,
            where=f"redis {found.server}",
            sentence="Jobs for queues of another queue server wait to be carried there.",
            evidence=f"{found.parcels:,} on {found.server}",
            remedy="normal for a moment; else see that the other server and arqscope dead-letters run",
        )  # fmt: skip
    if found.results_forever:
        yield Finding(
            hazard="results-forever", severity=Severity.WARNING, where=f"redis {found.server}",
            sentence="Results that never expire: they fill the memory, and no job of their id can be enqueued again.",
            evidence=f"{len(found.results_forever):,} in a look at about {found.scanned:,} keys: "
            + _some([name.removeprefix(keys.ARQ_RESULT) for name in found.results_forever]),
            remedy="no keep_result_forever (it also crashes stock workers when a job fails); DEL them",
        )  # fmt: skip
    if found.foreign and any(queue.is_ours and queue.depth for queue in found.queues):
        yield Finding(
            hazard="shared-redis", severity=Severity.NOTICE, where=f"redis {found.server}",
            sentence="Another project's queues share this database: job ids and arq:abort are common to all.",
            evidence=_some(found.foreign), remedy="a database or a Redis of its own, or ids with a prefix",
        )  # fmt: skip


def _payloads(queue: Queue) -> Iterator[Finding]:
    left = queue.payload_left_ms
    gone = [i for i, ms in left.items() if ms == -2]
    soon = [i for i, ms in left.items() if 0 <= ms < SOON_MS and i not in queue.vaulted]
    if gone:
        kept = sum(1 for i in gone if i in queue.vaulted)
        yield _finding(
            queue, "payload-gone", Severity.CRITICAL if kept < len(gone) else Severity.WARNING,
            "Jobs whose payload is gone: their arguments are lost.",
            f"{len(gone)} of {len(left)} looked at, {kept} of them in our vault: {_some(gone)}",
            "more workers; producers with create_pool(expires_extra_ms=…); our workers keep copies in time",
        )  # fmt: skip
    if soon:
        yield _finding(
            queue, "payload-expires", Severity.WARNING,
            "Payloads end before their job is run: stock producers give them 24 h.",
            f"{len(soon)} of {len(left)} looked at end within 1 h: {_some(soon)}",
            "more workers now; start one of ours: its janitor copies them",
        )  # fmt: skip
    blocked = sorted(queue.results - set(queue.locks))
    if blocked:
        yield _finding(
            queue, "result-blocks-id", Severity.WARNING,
            "A result of an earlier job lies under the id of a waiting one: who asks for it gets the old answer.",
            f"{len(blocked)} of {len(left)} looked at: {_some(blocked)}",
            "use new ids, or DEL the result before enqueueing again",
        )  # fmt: skip


def _stock(queue: Queue) -> Iterator[Finding]:
    stock = queue.stock_locks
    if stock and queue.is_ours and (queue.workers or queue.running):
        yield _finding(
            queue, "stock-beside-ours", Severity.CRITICAL,
            "Stock arq workers serve this queue beside ours: what fails there leaves no dead letter, and they "
            "know no fence.",
            f"{len(stock)} jobs with stock locks: {_some(stock)}",
            "stop them, or start them as ours: arq workers.settings.AsyncProcessing",
        )  # fmt: skip
    if queue.health_left_ms > 60_000 and not queue.workers:
        yield _finding(
            queue, "stock-health", Severity.WARNING,
            "The stock worker tells its health so seldom that a dead one looks alive.",
            f"its record is good for another {queue.health_left_ms / 1000:.0f} s",
            "health_check_interval = 20, and a health_check_key per worker",
        )  # fmt: skip
    short = [i for i in stock if 0 <= queue.lock_left_ms.get(i, -2) <= NO_TIMEOUT_MS]
    if short and len(short) == len(stock):
        yield _finding(
            queue, "no-timeout", Severity.WARNING,
            "Locks of running jobs end within 10 s: with job_timeout=None another worker runs them again.",
            f"{len(short)} of {len(stock)} stock locks: {_some(short)}",
            "give job_timeout a number; this passes when these jobs just come to their timeout",
        )  # fmt: skip
    if len(stock) >= STOCK_READ_LIMIT and queue.due > len(stock):
        yield _finding(
            queue, "starvation", Severity.CRITICAL,
            "Running jobs fill the head of the queue: a stock worker at its defaults sees nothing behind them.",
            f"{len(stock)} locked ids at the head, {queue.due - len(stock):,} due behind them",
            "queue_read_limit above the sum of max_jobs of all workers; long and short jobs on different queues",
        )  # fmt: skip


def _work(queue: Queue) -> Iterator[Finding]:
    wait_s, waiting = queue.oldest_wait_s, queue.due - queue.running
    slots = sum(worker.slots for worker in queue.workers)
    busy = sum(worker.busy for worker in queue.workers)
    if queue.is_paused and queue.due:
        yield _finding(
            queue, "paused", Severity.NOTICE, "It is paused and work waits.",
            f"{queue.due:,} due, the oldest for {wait_s:.0f} s", f"POST /queues/{queue.name}/resume",
        )  # fmt: skip
    elif queue.is_ours and waiting > 0 and wait_s > 20 and not queue.workers and (
        queue.health_left_ms == -2
    ):  # fmt: skip
        yield _finding(
            queue, "no-worker", Severity.CRITICAL, "Work waits and no worker serves it.",
            f"{queue.due:,} due, the oldest for {wait_s:.0f} s", f"arqscope worker {queue.name}",
        )  # fmt: skip
    elif queue.workers and waiting > 0 and wait_s > STARVED_S:
        full = busy >= slots
        yield _finding(
            queue, "backlog" if full else "stuck", Severity.WARNING if full else Severity.CRITICAL,
            "All slots are taken and work waits." if full else "Slots are free and due work waits.",
            f"{waiting:,} due, the oldest for {wait_s:.0f} s; {busy} of {slots} slots busy",
            "more workers or CONCURRENCY" if full else f"GET /jobs/{queue.name}/<id>/why, the worker's log",
        )  # fmt: skip
    versions = sorted({worker.version for worker in queue.workers})
    if len(versions) > 1:
        yield _finding(
            queue, "mixed-versions", Severity.NOTICE, "Workers of different versions serve it.",
            ", ".join(versions[:5]), "normal while a deploy rolls; else stop the old ones",
        )  # fmt: skip
    troubled = [worker for worker in queue.workers if worker.trouble]
    if troubled:
        yield _finding(
            queue, "worker-trouble", Severity.WARNING, "A worker says that something is wrong with it.",
            f"{troubled[0].id}: {troubled[0].trouble[:200]}", "look at its log",
        )  # fmt: skip


def _some(names: list[str]) -> str:
    shown = ", ".join(name[:80] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
