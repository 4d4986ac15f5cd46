"""The preflight: what the doctor knows of a Redis that nobody should start on, asked when a process starts.

It judges by the doctor's own findings. What costs little is told; what would lose accepted work is refused.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from app.doctor import server_hazards, servers
from app.doctor.findings import Finding, Severity, together, worst_first
from app.errors import SettingsError, UnsafeRedis
from app.settings import Settings
from app.wire.connections import connect
from app.wire.misfits import Misfit, misfit_of

_T = TypeVar("_T")
log = logging.getLogger("arqscope.preflight")

#: hazards of how a server is set up; told at every start
TOLD: Final = frozenset(
    {"eviction", "aof-off", "aof-fsync-off", "no-password", "unprotected", "replay-rights",
     "replicas-of-nothing", "replica"}
)  # fmt: skip
#: of those, what loses accepted work by itself; refused where the doctor calls it critical
REFUSED: Final = frozenset({"eviction", "replicas-of-nothing"})
#: s a server may take: one that is away is waited for later, by whoever needs it
PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was seen before a start."""

    told: tuple[Finding, ...]
    refused: tuple[Finding, ...]
    unknown: tuple[str, ...]
    misfits: tuple[Misfit, ...] = ()


async def look(settings: Settings, roles: Iterable[str] = ()) -> Preflight:
    """Look at the servers of *roles* (nothing: all that hold work); one that does not answer is unknown, no reason."""
    roles = tuple(roles) or (*settings.placement.names, "streams")
    for hazard in settings.accepted_hazards - REFUSED:
        raise SettingsError(
            f"ARQSCOPE_ACCEPT_HAZARDS: {hazard!r} is none of {', '.join(sorted(REFUSED))}"
        )
    *seen, cache = await asyncio.gather(
        *(_look_at(role, settings.url(role)) for role in (*roles, "cache"))
    )
    found = [
        finding
        for server in seen
        if not server.problem
        for finding in server_hazards.hazards_of(server)
        if finding.hazard in TOLD and finding.severity is not Severity.NOTICE
    ]
    refused = [
        finding
        for finding in found
        if finding.hazard in REFUSED
        and finding.severity is Severity.CRITICAL
        and finding.hazard not in settings.accepted_hazards
    ]
    return Preflight(
        told=together(worst_first(f for f in found if f not in refused)),
        refused=together(worst_first(refused)),
        unknown=tuple(f"redis {s.role}: {text}" for s in seen for text in servers.unknown_of(s)),
        misfits=tuple(filter(None, (_misfit(settings, server) for server in (*seen, cache)))),
    )


def _misfit(settings: Settings, server: servers.Server) -> Misfit | None:
    if server.error is None:
        return None
    address, password = settings.names_of(server.role)
    return misfit_of(server.error, server.url, address=address, password=password)


async def _look_at(role: str, url: str) -> servers.Server:
    client = connect(url, retries=0)
    try:
        # a login of its own has the rights somebody wrote down: each start that asks for more would
        # stand in the server's ACL LOG like an intruder
        has_login = urlsplit(url).username not in (None, "", "default")
        return await servers.look_at(role, client, url, patience_s=PATIENCE_S, only_info=has_login)
    finally:
        await client.aclose(close_connection_pool=True)


async def check(settings: Settings, roles: Iterable[str] = ()) -> None:
    """Log what is wrong with the servers of *roles* and the cache; UnsafeRedis when nobody should start on one.

    A login that is refused stops nobody: it may be a rotation, and whoever waits goes on when it is over.
    """
    seen = await look(settings, roles)
    for misfit in seen.misfits:
        fields = {"setting": misfit.setting, "url": misfit.url, "error": misfit.said}
        log.error("Redis refuses us", extra=fields | {"remedy": misfit.remedy})
    for finding in seen.told:
        fields = {"hazard": finding.hazard, "where": finding.where, "evidence": finding.evidence}
        log.warning(finding.sentence, extra=fields | {"remedy": finding.remedy})
    if seen.unknown:
        log.info("not known before the start", extra={"unknown": "; ".join(seen.unknown)})
    refuse(seen)


def refuse(seen: Preflight) -> None:
    """Raise UnsafeRedis when *seen* holds what nobody should start on."""
    if seen.refused:
        raise UnsafeRedis(
            "not started, because accepted work would be lost. "
            + "; ".join(
                f"{f.where}: {f.sentence} ({f.hazard}: {f.evidence}) Remedy: {f.remedy}"
                for f in seen.refused
            )
            + f". To start all the same: ARQSCOPE_ACCEPT_HAZARDS={','.join(f.hazard for f in seen.refused)}"
        )


def at_once(asked: Coroutine[Any, Any, _T]) -> _T:
    """The outcome of *asked*, for callers that cannot wait: there may be a loop that runs them."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, asked).result()
