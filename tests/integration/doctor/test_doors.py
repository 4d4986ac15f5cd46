"""The doctor as people meet it: the command, the page, and Redis 6.2."""

import json
import os
import subprocess
import sys
from pathlib import Path

from app import keys
from app.pages.address import Address
from app.pages.configuration import PAGE
from app.pages.scene import Scene
from app.settings import Settings
from app.snapshot import Snapshot
from tests.conftest import ROOT, RunningRedis, redis_binary, start_redis
from tests.integration.doctor.conftest import Clinic
from tests.integration.doctor.plants import payload_gone, trimmed_pending


def test_the_command_tells_them_and_ends_with_its_code(
    server: RunningRedis, tmp_path: Path
) -> None:
    environment = {
        **{k: v for k, v in os.environ.items() if "REDIS" not in k},
        "REDIS_URL": server.database(0),
        "REDIS_STREAMS_URL": server.database(1),
        "REDIS_QUEUE_URL": server.database(2),
        "PYTHONPATH": str(ROOT),
    }

    def run(*more: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "app.cli", "doctor", *more],
            env=environment | changed,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    told = run("--json")
    dead = run(REDIS_QUEUE_URL="redis://127.0.0.1:1/0")

    assert json.loads(told.stdout)["exitCode"] == told.returncode
    assert told.returncode in (0, 2)
    assert dead.returncode == 1
    assert "critical redis queue: It does not answer. (unreachable)" in dead.stdout


async def test_it_works_on_6_2_too(tmp_path: Path) -> None:
    old = start_redis(tmp_path / "old", redis_binary("bundled"))
    clinic = Clinic(
        Settings(
            redis_url=old.database(0),
            redis_streams_url=old.database(1),
            redis_queue_url=old.database(2),
        )
    )
    try:
        await trimmed_pending(clinic)
        await payload_gone(clinic)
        found = {f.hazard for f in (await clinic.examine()).findings}
    finally:
        await clinic.close()
        old.stop()

    assert {"version", "trimmed-pending", "payload-gone"} <= found


async def test_what_the_page_shows_is_text(clinic: Clinic) -> None:
    """Names in Redis are anybody's: on the page they are text."""
    attack = "<img src=x onerror=alert(1)>"
    await clinic.queue.set(keys.arq_result(attack), b"{}")
    found = await clinic.examine()
    scene = Scene(
        snapshot=Snapshot.empty(),
        address=Address("settings"),
        settings=clinic.settings,
        found=found,
    )

    html = str(PAGE.above(scene))

    assert "&lt;img src=x" in html
    assert "<img src=x" not in html
    assert "Results that never expire" in html
