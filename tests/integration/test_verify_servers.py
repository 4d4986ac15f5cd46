"""``arqscope verify`` against queues on two queue servers: each server is tried, and each fault is told of its own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import redis as redis_sync

from app.settings import Settings
from app.verify import standing
from app.verify.deployment import Deployment, by_shutdown
from app.verify.proofs import Proof, Shown
from app.verify.script import verify
from tests.conftest import RunningRedis, start_redis, unused_port
from tests.integration.shards import AWAY_QUEUE, HOME_QUEUE, working
from tests.serving import start_server, stop

CONFIG = f"[queues.{HOME_QUEUE}]\n[queues.{AWAY_QUEUE}]\n"


@dataclass
class Sharded:
    """A dashboard, its home server and a further queue server, and what processes are started with."""

    home: RunningRedis
    away: RunningRedis
    url: str
    environ: dict[str, str]

    @property
    def settings(self) -> Settings:
        return Settings.load(self.environ, env_file=None)

    def deployment(self, **more: Any) -> Deployment:
        urls = {"queue": self.home.database(2), "queue-2": self.away.url}
        return Deployment(
            **{"url": self.url, "urls": urls, "restart": self.restart, "patience_s": 15.0,
               "load": 10, **more}
        )  # fmt: skip

    async def restart(self, role: str) -> None:
        (self.away if role == "queue-2" else self.home).restart()


@pytest.fixture(scope="module")
def _sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sharded]:
    directory = tmp_path_factory.mktemp("verify-servers")
    home, away = start_redis(directory / "home"), start_redis(directory / "away")
    (directory / "arqscope.toml").write_text(CONFIG)
    more = {
        "REDIS_QUEUE_SHARDS": f"reports-*={away.url}",
        "ARQSCOPE_CONFIG_FILE": str(directory / "arqscope.toml"),
        "GENERIC_JOBS": "true",
    }
    server = start_server(home, directory, **more)
    urls = {"REDIS_URL": 0, "REDIS_STREAMS_URL": 1, "REDIS_QUEUE_URL": 2}
    environ = {name: home.database(number) for name, number in urls.items()} | more
    yield Sharded(home, away, server.url, environ)
    stop(server)
    home.stop()
    away.stop()


@pytest.fixture
async def sharded(_sharded: Sharded) -> AsyncIterator[Sharded]:
    """Both servers up, and a worker of each declared queue."""
    if _sharded.away.process is None:
        _sharded.away.start()
    settings = _sharded.settings
    async with AsyncExitStack() as stack:
        for queue in settings.queue_names:
            await stack.enter_async_context(working(settings, queue))
        yield _sharded


async def proofs_of(to: Deployment, *only: str) -> dict[str, Proof]:
    try:
        return {proof.check: proof async for proof in verify(to, only)}
    finally:
        await to.close()


async def test_every_queue_server_is_tried(sharded: Sharded) -> None:
    """
    Reached and written to, a job's life and death, a restart of each, a load on each.
    """
    checks = ("redis-queue", "redis-queue-2", "jobs", "dead-letters", "persistence", "load")
    proofs = await proofs_of(sharded.deployment(), *checks)

    assert list(proofs) == ["server", *checks]
    assert [proof for proof in proofs.values() if proof.shown is not Shown.PASSED] == []
    assert proofs["jobs"].evidence.endswith("on 2 queue servers")
    for queue in sharded.settings.queue_names:
        assert f"{queue} " in proofs["jobs"].evidence
    assert proofs["dead-letters"].evidence.count("died after 2 attempts") == 2
    assert "a job on each of 2 queue servers" in proofs["persistence"].evidence
    assert proofs["persistence"].evidence.count("→") == 3  # both queue servers, and the streams
    assert f"10 jobs on {AWAY_QUEUE} completed" in proofs["load"].evidence


async def test_a_further_server_that_keeps_nothing_is_told(sharded: Sharded) -> None:
    with redis_sync.Redis.from_url(sharded.away.url) as client:
        client.config_set("appendonly", "no")  # its restart, by its command line, has it on again

    proof = (await proofs_of(sharded.deployment(), "persistence"))["persistence"]

    assert proof.shown is Shown.FAILED
    told = f"the delayed job of {AWAY_QUEUE} is gone after the restart of redis-queue-2"
    assert proof.evidence == told
    assert proof.remedy.startswith("redis-queue-2 must run with appendonly yes")


async def test_a_further_server_that_is_away_is_told_by_each_check_of_it(sharded: Sharded) -> None:
    sharded.away.kill()
    known = await proofs_of(
        sharded.deployment(patience_s=1), "redis-queue", "redis-queue-2", "jobs"
    )
    by_server = await proofs_of(
        sharded.deployment(urls={}, patience_s=1), "redis-queue-2", "health"
    )

    assert known["redis-queue"].shown is Shown.PASSED
    assert known["redis-queue-2"].evidence.startswith("redis-queue-2: Redis at redis://:***@")
    assert AWAY_QUEUE in known["jobs"].evidence
    assert by_server["redis-queue-2"].evidence == "redis-queue-2: ConnectionError"
    assert "redis-queue-2 ConnectionError" in by_server["health"].evidence
    proofs = [known["redis-queue-2"], known["jobs"], *by_server.values()]
    assert [p.check for p in proofs if p.shown is Shown.PASSED] == ["server"]


async def test_servers_that_only_one_side_knows_are_told(sharded: Sharded) -> None:
    """
    REDIS_QUEUE_SHARDS differs between this environment and the dashboard: no job proves anything.
    """
    urls = {"queue-2": sharded.home.database(5), "queue-3": f"redis://127.0.0.1:{unused_port()}"}
    proofs = await proofs_of(sharded.deployment(urls=urls), "redis-queue-3", "jobs")

    assert "the dashboard knows no such server" in proofs["redis-queue-3"].evidence
    assert "has no result of it" in proofs["jobs"].evidence
    assert {p.shown for name, p in proofs.items() if name != "server"} == {Shown.FAILED}


async def test_a_server_without_a_queue_or_a_restart_is_not_passed(
    sharded: Sharded, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = {"queue": sharded.home.database(2), "streams": sharded.home.database(1)}
    to = sharded.deployment(restart=by_shutdown(urls))
    with pytest.raises(Exception, match="redis-queue-2 is not of the embedded stack"):
        await to.restart_server("queue-2")  # else it would be shut down, and nobody would start it
    await to.close()
    assert sharded.away.process is not None
    assert sharded.away.process.poll() is None

    async def without_any(_: Deployment) -> dict[str, list[str]]:
        return {"redis-queue": [HOME_QUEUE], "redis-queue-2": []}

    monkeypatch.setattr(standing, "queue_servers", without_any)
    for check in ("dead-letters", "persistence", "load"):
        proof = (await proofs_of(sharded.deployment(), check))[check]
        assert proof.shown is Shown.UNCHECKED
        assert "no declared queue lies on redis-queue-2" in proof.evidence
