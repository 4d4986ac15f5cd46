"""Checks of jobs: their life on every queue, their death, a restart under them, and a small load."""

import asyncio
import secrets
import time
from collections.abc import Coroutine, Iterable
from typing import Any, Final

from app import keys
from app.verify.deployment import Deployment, path_of, service_of
from app.verify.proofs import failed
from app.verify.standing import one_each, queue_servers

#: a function every worker has, and what it is given: a little work
_FUNCTION: Final = "generic"
_DATA: Final = {"duration": 5}
_ENDED: Final = ("complete", "failed", "dead", "aborted")
#: ms the job that must survive a restart is put off
_LATER_MS: Final = 3_600_000


def fresh_id(what: str) -> str:
    """An id nobody has."""
    return f"verify-{what}-{secrets.token_hex(6)}"


async def _job(to: Deployment, queue: str, job_id: str) -> dict[str, Any]:
    """The job as the server tells it; empty when it does not know it."""
    path = path_of("jobs", queue, job_id)
    answer = await to.ask("GET", path)
    if answer.status == 404:
        return {}
    found: dict[str, Any] = answer.json if answer.status == 200 else await to.get(path)
    return found


async def _ended(to: Deployment, queue: str, job_id: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        found = await _job(to, queue, job_id)
        return found if found.get("state") in _ENDED else {}

    async def otherwise() -> Exception:
        return await _stuck(to, queue, job_id)

    found: dict[str, Any] = await to.eventually(look, otherwise)
    return found


async def _stuck(to: Deployment, queue: str, job_id: str) -> Exception:
    """Say why a job did not end: paused, no worker, or still running."""
    found = await _job(to, queue, job_id)
    if not found:
        return failed(
            f"job {job_id} of {queue} was accepted and is gone",
            "look for what else writes to this Redis: eviction, another program, FLUSHALL",
        )
    row = (await to.get("/stats")).get(queue, {})
    state = found.get("state")
    if row.get("paused"):
        return failed(
            f"{queue} is paused: its job waits",
            f"POST /queues/{queue}/resume, or the page's Resume",
        )
    if not row.get("workers"):
        return failed(
            f"no worker serves {queue}: its job is {state} after {to.patience_s:g} s",
            f"start one: arqscope worker {queue}",
        )
    return failed(
        f"job {job_id} of {queue} is {state} after {to.patience_s:g} s",
        f"GET {path_of('jobs', queue, job_id)}/why says what it waits for; or give more --patience",
    )


async def _all(checks: Iterable[Coroutine[Any, Any, str]]) -> str:
    """Do *checks* beside one another, all to their end; raise the first failure, in their order."""
    shown = await asyncio.gather(*checks, return_exceptions=True)
    for one in shown:
        if isinstance(one, BaseException):
            raise one
    return "; ".join(map(str, shown))


async def live(to: Deployment) -> str:
    """A job on every queue is accepted once, runs, and its result is kept, where the queue is."""
    servers = await queue_servers(to)
    lives = [
        _live_on(to, name.removeprefix("redis-"), queue)
        for name, queues in servers.items()
        for queue in queues
    ]
    told = await _all(lives)
    await one_each(to)  # a server without a queue proves nothing
    return told + (f"; on {len(servers)} queue servers" if len(servers) > 1 else "")


async def _live_on(to: Deployment, server: str, queue: str) -> str:
    job_id = fresh_id("life")
    body = {"name": _FUNCTION, "data": _DATA, "options": {"jobId": job_id}}
    began = time.monotonic()
    first = await to.post(path_of("jobs", queue), body)
    if first.get("id") != job_id or first.get("existed"):
        raise failed(
            f"{queue} accepted another job than the one it was given: {first}",
            "look for a proxy that changes or caches requests",
        )
    again = await to.post(path_of("jobs", queue), body)
    if not again.get("existed"):
        raise failed(
            f"{queue} accepted the id {job_id} twice",
            "two servers that use different Redis are behind this address",
        )
    found = await _ended(to, queue, job_id)
    if found["state"] != "complete":
        error = next((run.get("error", "") for run in found.get("runs", ())), "")
        raise failed(
            f"a job of {queue} that cannot fail is {found['state']} {error}".strip(),
            "look at its page and at the worker's log",
        )
    took_ms = (time.monotonic() - began) * 1000
    client = to.redis(server)
    if client is not None and not await client.exists(keys.arq_result(job_id)):
        raise failed(
            f"a job of {queue} ran, and {service_of(server)} at the address known here has no result of it",
            "give every process the same REDIS_QUEUE_URL and REDIS_QUEUE_SHARDS, this one too",
        )
    return f"{queue} {took_ms:.0f} ms"


async def die(to: Deployment) -> str:
    """A job that fails is tried again, then a dead letter with its arguments, and discarded; on each server."""
    queues = (await one_each(to)).values()
    return await _all([_die_on(to, queue) for queue in queues])


async def _die_on(to: Deployment, queue: str) -> str:
    job_id = fresh_id("death")
    data = {"duration": 1, "shouldFail": True, "error": f"ValueError: arqscope verify {job_id}"}
    options = {"jobId": job_id, "attempts": 2, "backoff": 100}
    await to.post(path_of("jobs", queue), {"name": _FUNCTION, "data": data, "options": options})
    letter_path = path_of("dead-letters", queue, job_id)

    async def letter_now() -> dict[str, Any]:
        answer = await to.ask("GET", letter_path)
        found: Any = answer.json if answer.status == 200 else None
        return dict(found) if isinstance(found, dict) else {}

    async def look() -> dict[str, Any]:
        found = await letter_now()
        if found:
            return found
        state = (await _job(to, queue, job_id)).get("state")
        if state in _ENDED and not (found := await letter_now()):  # asked again: it just died
            raise failed(
                f"a job of {queue} failed and is in no dead letter: it is {state}",
                "a stock arq worker serves this queue beside ours, or in place of it; stop it",
            )
        return found

    async def otherwise() -> Exception:
        return await _stuck(to, queue, job_id)

    detail = await to.eventually(look, otherwise)
    letter = dict(detail.get("letter") or {})
    tries = int(letter.get("attempts") or 0)
    if tries != 2:
        raise failed(
            f"the dead letter says {tries} attempts, not 2",
            "the options of a job must hold: look at the version of the workers",
        )
    if job_id not in str(letter.get("error")) or job_id not in str(detail.get("arguments")):
        raise failed(
            f"the dead letter lacks its error or its arguments: {letter.get('error')!r}",
            "look at the version of the workers; the payload of a dead job must be kept",
        )
    listed: list[Any] = []
    for state in ("open", "closed", "retrying"):
        found = await to.get(f"{path_of('dead-letters', queue)}?state={state}&text={job_id}")
        listed += [row for row in found.get("items", ()) if row.get("id") == job_id]
    if not listed:
        raise failed("the dead letter is not in the list of its queue", "report this")
    await to.ask("POST", f"{letter_path}/discard", {"reason": "arqscope verify"})
    return f"{job_id} died after 2 attempts, is listed with its error and arguments, and discarded"


async def survive(to: Deployment) -> str:
    """A delayed job on each queue server and an event are there after their Redis was restarted."""
    queues = await one_each(to, 0)
    job_id, event_id = fresh_id("kept"), fresh_id("kept")
    job = {"name": _FUNCTION, "data": _DATA, "options": {"jobId": job_id, "delay": _LATER_MS}}
    event = await to.post("/events", {"type": "arqscope.verify", "eventId": event_id, "data": {}})
    shown = []
    try:
        for queue in queues.values():
            await to.post(path_of("jobs", queue), job)
        for role, queue in queues.items():
            shown.append(await to.restart_server(role))
            found = await _after_restart(to, path_of("jobs", queue, job_id))
            if found.get("state") != "deferred":
                raise _forgot(f"the delayed job of {queue}", role)
        shown.append(await to.restart_server("streams"))
        entry_path = path_of("streams", event["stream"], "entries", event["id"])
        if not await _after_restart(to, entry_path):
            raise _forgot("the event", "streams")
    finally:
        for queue in queues.values():
            await to.ask("POST", f"{path_of('jobs', queue, job_id)}/cancel")
    jobs = "job" if len(queues) == 1 else f"a job on each of {len(queues)} queue servers"
    return f"{jobs} and event outlived a restart of their Redis ({'; '.join(shown)})"


def _forgot(what: str, role: str) -> Exception:
    name = service_of(role)
    return failed(
        f"{what} is gone after the restart of {name}",
        f"{name} must run with appendonly yes, on a volume that is kept",
    )


async def _after_restart(to: Deployment, path: str) -> dict[str, Any]:
    """What *path* answers once the server reaches its Redis again; empty for 404."""

    async def look() -> Any:
        stats, answer = await to.ask("GET", "/stats"), await to.ask("GET", path)
        return answer if stats.status == 200 and answer.status in (200, 404) else None

    async def otherwise() -> Exception:
        answer = await to.ask("GET", path)
        return failed(
            f"the server does not come back after the restart: {answer.problem}",
            "look at the server's log",
        )

    answer = await to.eventually(look, otherwise)
    found: dict[str, Any] = answer.json if answer.status == 200 else {}
    return found


async def bear(to: Deployment) -> str:
    """Many jobs at once all complete, each counted; on each queue server."""
    queues = (await one_each(to)).values()
    return await _all([_bear_on(to, queue) for queue in queues])


async def _accepted(to: Deployment, queue: str) -> int:
    """How many jobs *queue* accepted, once it is known: right after a restart of its Redis it is not."""

    async def look() -> tuple[int] | None:
        count = (await to.get("/stats"))[queue]["accepted"]
        return (count,) if isinstance(count, int) else None

    async def otherwise() -> Exception:
        return failed(
            f"/stats does not know how many jobs {queue} accepted",
            "the Redis that holds it does not answer: see /health",
        )

    return int((await to.eventually(look, otherwise))[0])


async def _bear_on(to: Deployment, queue: str) -> str:
    batch = fresh_id("load")
    ids = [f"{batch}-{number}" for number in range(to.load)]
    before = await _accepted(to, queue)
    began = time.monotonic()
    accepted = await to.post(
        path_of("jobs", queue),
        [{"name": _FUNCTION, "data": {"duration": 0}, "options": {"jobId": i}} for i in ids],
    )
    if len(accepted) != to.load:
        raise failed(f"{len(accepted)} of {to.load} jobs were accepted", "report this")
    left = set(ids)

    async def look() -> bool:
        for start in range(0, len(left), 20):
            some = sorted(left)[start : start + 20]
            found = await asyncio.gather(*(_job(to, queue, i) for i in some))
            wrong = [f for f in found if f.get("state") in ("failed", "dead", "aborted")]
            if wrong:
                raise failed(
                    f"a job of the load is {wrong[0]['state']}: {wrong[0].get('id')}",
                    "look at its page and at the worker's log",
                )
            left.difference_update(
                i for i, f in zip(some, found, strict=True) if f.get("state") == "complete"
            )
            if len(left) > to.load // 2:  # far from done: ask again later
                break
        return not left

    async def otherwise() -> Exception:
        return await _stuck(to, queue, min(left))

    await to.eventually(look, otherwise)
    took_s = time.monotonic() - began
    grown = 0

    async def counted() -> bool:
        nonlocal grown
        grown = await _accepted(to, queue) - before
        return grown >= to.load

    async def miscounted() -> Exception:
        return failed(
            f"{to.load} jobs completed, and /stats counted {grown}", "look at the server's log"
        )

    await to.eventually(counted, miscounted)
    return f"{to.load} jobs on {queue} completed in {took_s:.1f} s, and /stats counted them"
