"""The test script itself: its checks in order, run against one deployment."""

import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from app.errors import CheckFailed, CheckImpossible, InvalidRequest
from app.verify import facts, standing, work
from app.verify.deployment import SERVICES, Deployment, service_of
from app.verify.proofs import Proof, Shown


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what it is called, what it is about, and how it is done."""

    name: str
    about: str
    prove: Callable[[Deployment], Awaitable[str]]


def _redis(role: str, about: str) -> Check:
    return Check(service_of(role), about, functools.partial(standing.takes_writes, role=role))


CHECKS: Final = (
    Check("server", "The address answers, and it is arqscope", standing.answers),
    Check("health", "/health is 200 without a key, every part ok", standing.healthy),
    _redis("cache", "Redis for pub/sub answers and takes a write"),
    _redis("streams", "Redis for streams answers and takes a write"),
    _redis("queue", "Redis for queues answers and takes a write"),
    Check("ui", "The page, its script and its websocket", standing.page_opens),
    Check("access", "Everything but /health asks for the key", standing.asks_for_key),
    Check("stats", "/stats has every queue and the dead letters", standing.counts),
    Check("jobs", "A job on every queue: accepted once, run, result kept", work.live),
    Check("dead-letters", "A failing job: tried again, then a dead letter", work.die),
    Check("streams", "An event: appended once, handled", facts.flow),
    Check("pubsub", "A notification: heard by a listener", facts.heard),
    Check("persistence", "A delayed job and an event outlive a restart of Redis", work.survive),
    Check("load", "Many jobs at once, all completed and counted", work.bear),
)

#: where the checks of further queue servers go: after that of the home
_HOME: Final = 1 + [check.name for check in CHECKS].index(SERVICES["queue"])
_FURTHER: Final = re.compile(r"redis-queue-\d{1,3}")


async def verify(to: Deployment, only: Collection[str] = ()) -> AsyncIterator[Proof]:
    """Run the checks (those named in *only*, and always the first) and yield each proof.

    When the address does not answer, the rest is not checked. InvalidRequest for an unknown name.
    """
    names = [check.name for check in CHECKS]
    for name in only:
        if name not in names and not _FURTHER.fullmatch(name):
            raise InvalidRequest(f"no check named {name!r}", hint=f"there are {', '.join(names)}")
    reached, checks = True, list(CHECKS)
    for number, check in enumerate(checks):  # grows once: by what the server tells of
        if only and check.name not in only and number:
            continue
        if not reached:
            yield Proof(
                check=check.name,
                about=check.about,
                shown=Shown.UNCHECKED,
                evidence="the address does not answer",
                remedy="see the check named server",
            )
            continue
        proof = await _prove(check, to)
        if not number:
            reached = proof.shown is not Shown.FAILED
            checks[_HOME:_HOME] = await _further(to, only) if reached else []
        yield proof


async def _further(to: Deployment, only: Collection[str]) -> list[Check]:
    """A check of each further queue server, and of each that *only* asks for."""
    try:
        roles = await standing.further_servers(to)
    except CheckFailed:  # the check named health says what is wrong
        roles = []
    asked = [name.removeprefix("redis-") for name in only if _FURTHER.fullmatch(name)]
    about = "A further Redis for queues answers and takes a write"
    return [_redis(role, about) for role in dict.fromkeys([*roles, *asked])]


async def _prove(check: Check, to: Deployment) -> Proof:
    began = time.monotonic()
    remedy = ""
    try:
        evidence, shown = await check.prove(to), Shown.PASSED
    except CheckImpossible as error:
        evidence, remedy, shown = str(error), error.remedy, Shown.UNCHECKED
    except CheckFailed as error:
        evidence, remedy, shown = str(error), error.remedy, Shown.FAILED
    except Exception as error:  # an answer nobody thought of is no proof
        evidence, shown = f"the check broke: {type(error).__name__}: {error}"[:300], Shown.FAILED
    return Proof(
        check=check.name,
        about=check.about,
        shown=shown,
        evidence=evidence,
        remedy=remedy,
        seconds=time.monotonic() - began,
    )
