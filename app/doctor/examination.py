"""The examination: look at everything, a few round trips per Redis, and say what was found."""

import asyncio
import time
from collections.abc import Iterator

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.actions import Connections
from app.doctor import queue_hazards, queues, server_hazards, servers, streams
from app.doctor.findings import Diagnosis, Finding, Severity, worst_first
from app.origins import is_loopback
from app.placement import HOME
from app.settings import Settings
from app.wire.connections import explained


async def examine(connections: Connections, settings: Settings) -> Diagnosis:
    """Look for every hazard we know; never raises for a Redis that is away: that is a finding."""
    clients: dict[str, Redis] = {
        **connections.queue_servers, "streams": connections.streams, "cache": connections.cache,
    }  # fmt: skip
    seen = await asyncio.gather(
        *(servers.look_at(role, redis, settings.url(role)) for role, redis in clients.items())
    )
    found: list[Finding] = [f for server in seen for f in server_hazards.hazards_of(server)]
    found += server_hazards.shared_hazards(list(seen))
    unknown = [f"redis {s.role}: {reason}" for s in seen for reason in servers.unknown_of(s)]
    examined = [f"redis {server.role}" for server in seen if not server.problem]
    up = {server.role for server in seen if not server.problem}
    for name, redis in connections.queue_servers.items():
        if name not in up:
            continue
        try:
            looked = await queues.look_at(redis, settings, name)
            found += queue_hazards.hazards_of(looked, settings)
            examined += [f"queue {queue.name}" for queue in looked.queues]
        except (RedisError, OSError) as error:
            unknown.append(
                f"queues{'' if name == HOME else ' of ' + name}: {explained(error, settings.url(name))}"
            )
    if "streams" in up:
        try:
            flows = await streams.look_at(connections.streams, settings)
            found += streams.hazards_of(flows, settings)
            examined += [f"stream {stream.name}" for stream in flows]
        except (RedisError, OSError) as error:
            unknown.append(f"streams: {explained(error, settings.url('streams'))}")
    found += _of_settings(settings)
    return Diagnosis(
        findings=worst_first(found),
        unknown=tuple(unknown),
        examined=(*examined, "settings"),
        taken_ms=int(time.time() * 1000),
    )


def _of_settings(settings: Settings) -> Iterator[Finding]:
    if settings.allow_pickle:
        yield Finding(
            hazard="pickle", severity=Severity.WARNING, where="settings",
            sentence="Workers read pickled jobs: whoever can write to the queue's Redis runs code in them.",
            evidence="ARQSCOPE_ALLOW_PICKLE=true",
            remedy="job_serializer=Codec().encode on stock producers, then ARQSCOPE_ALLOW_PICKLE=false",
        )  # fmt: skip
    if settings.api_key is None and not is_loopback(settings.queue_ui_host):
        yield Finding(
            hazard="no-api-key", severity=Severity.WARNING, where="settings",
            sentence="The API's only keys are those made with `arqscope keys create`.",
            evidence=f"no API_KEY, QUEUE_UI_HOST={settings.queue_ui_host}",
            remedy="nothing, if such keys exist; else the server refuses to start",
        )  # fmt: skip
    if settings.lease_s < 5:
        yield Finding(
            hazard="short-lease", severity=Severity.WARNING, where="settings",
            sentence="The lease is short: a Redis that is slow for a moment makes workers give jobs up.",
            evidence=f"ARQSCOPE_LEASE_S={settings.lease_s:g}", remedy="30 s, the default, unless in a test",
        )  # fmt: skip
