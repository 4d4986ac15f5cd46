"""What Redis keeps: slow disks (R2), power cuts (R3), damaged files (R4), full disks (R5), and a backup."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.doctor import append_only, server_hazards, servers
from app.enqueue import JobRequest, enqueue_many
from app.errors import ActionRefused, RedisRefused
from app.wire.connections import connect
from tests.conftest import ROOT, RunningRedis, lacking, redis_binary, start_redis, unused_port
from tests.faults.checker import conserved
from tests.faults.conftest import Row
from tests.faults.crash import crash
from tests.faults.load import Load, grown
from tests.faults.rig import QUEUE, Rig, sized
from tests.waiting import until

MakeRig = Callable[..., Rig]
KEEPS = ("--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")


def strace(pid: int, log: Path, *options: str) -> subprocess.Popen[bytes]:
    """Attach strace to *pid*, all its threads; it ends with it."""
    program = shutil.which("strace")
    if program is None:
        lacking("strace")
    with log.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(
            [program, "-f", "-p", str(pid), "-o", str(log), *options], stderr=err
        )


async def attached(log: Path) -> None:
    """Wait until strace says that it is there."""

    async def says() -> bool:
        return "attached" in log.with_suffix(".err").read_text("utf-8", "replace")

    await until(says)


def pid_of(server: RunningRedis) -> int:
    assert server.process is not None
    return server.process.pid


async def queued(server: RunningRedis) -> set[str]:
    """Ids the queue holds after a restart; payloads included."""
    client = connect(server.database(2), timeout_s=5)
    ids = {str(i) for i in await client.zrange(QUEUE, 0, -1)}
    await client.aclose(close_connection_pool=True)
    return ids


@pytest.mark.row("R2")
async def test_a_slow_disk_is_told_before_it_costs(
    make_rig: MakeRig, row: Row, tmp_path: Path
) -> None:
    """Every fdatasync takes 4 s; the doctor says so, then Redis is killed with what it had not written."""
    rig = make_rig(extra=KEEPS)
    load = Load(rig).start()
    await grown(rig, 50)
    log = tmp_path / "strace.log"
    tracer = strace(
        pid_of(rig.server), log, "-e", "trace=fdatasync",
        "-e", "inject=fdatasync:delay_enter=4000000",
    )  # fmt: skip
    slow_at = time.monotonic()

    async def alarm() -> Any:
        seen = await servers.look_at("queue", rig.producer, rig.server.database(2))
        return [f for f in server_hazards.hazards_of(seen) if f.hazard == "slow-disk"]

    try:
        (found,) = await until(alarm, timeout_s=30)
        alarm_s = time.monotonic() - slow_at
        await grown(rig, 20)
        rig.server.kill()
        killed_at = time.monotonic()
    finally:
        tracer.kill()
        tracer.wait(10)
    await load.stop()
    rig.server.start()
    lost = set(load.acked_at) - await queued(rig.server)
    window_s = max((killed_at - load.acked_at[i] for i in lost), default=0.0)

    row.figure(acked=len(load.acked_at), lost=len(lost), rpo_s=window_s, alarm_s=alarm_s)
    assert "aof_delayed_fsync" in found.evidence
    assert alarm_s < 10
    assert window_s <= 4.5  # one fdatasync, and what came while Redis waited for it


_WRITE = re.compile(r"write\(\d+<[^>]*\.incr\.aof>.*\)\s+= (\d+)")


def synced_bytes(log: Path) -> int:
    """Bytes of the incremental file that the disk had when Redis died, as strace saw it."""
    written = asked = synced = 0
    for line in log.read_text("utf-8", "replace").splitlines():
        if found := _WRITE.search(line):
            written += int(found[1])
        elif "fdatasync(" in line and ".incr.aof>" in line:
            asked = written
            if line.rstrip().endswith("= 0"):
                synced = asked
        elif "fdatasync resumed" in line and line.rstrip().endswith("= 0"):
            synced = asked
    return synced


@pytest.mark.row("R3")
@pytest.mark.parametrize("fault", ["everysec", "always"])
async def test_a_power_cut_costs_what_the_guide_says(
    make_rig: MakeRig, row: Row, tmp_path: Path, fault: str
) -> None:
    """The newest file is cut to what the last finished fdatasync covered."""
    rig = make_rig(extra=("--appendfsync", fault, "--auto-aof-rewrite-percentage", "0"))
    log = tmp_path / "strace.log"
    tracer = strace(pid_of(rig.server), log, "-y", "-s", "0", "-e", "trace=write,fdatasync")
    await attached(log)
    part = next((rig.server.directory / "appendonlydir").glob("*.incr.aof"))
    before = part.stat().st_size
    load = Load(rig).start()
    await grown(rig, sized(3000, 300))
    await until(lambda: asyncio.sleep(0, synced_bytes(log) > 0))
    await grown(rig, 50)
    rig.server.kill()
    killed_at = time.monotonic()
    tracer.wait(10)
    await load.stop()
    keep = before + synced_bytes(log)
    cut = part.stat().st_size - keep
    os.truncate(part, keep)
    rig.server.start()
    lost = set(load.acked_at) - await queued(rig.server)
    window_s = max((killed_at - load.acked_at[i] for i in lost), default=0.0)

    row.figure(fault=fault, acked=len(load.acked_at), cut_bytes=cut, lost=len(lost), rpo_s=window_s)
    assert cut >= 0
    if fault == "always":
        assert lost == set()
    else:
        assert window_s <= 2.0  # a second between two, and the one that was under way


# -- damaged files ----------------------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[tuple[RunningRedis, Path, list[str]]]:
    """A stopped server with two hundred jobs, and where its append-only files are."""
    server = start_redis(tmp_path / "redis", extra=KEEPS)

    async def fill() -> list[str]:
        client = connect(server.database(2))
        ids: list[str] = []
        for batch in range(20):  # one transaction each
            requests = [JobRequest(name="work", id=f"j{batch}-{n}") for n in range(10)]
            ids += [one.id for one in await enqueue_many(client, QUEUE, requests)]
        await client.aclose(close_connection_pool=True)
        return ids

    ids = asyncio.run(fill())
    server.stop()
    yield server, server.directory / "appendonlydir", ids
    server.stop()


def doctor(directory: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "app.cli", "doctor", "--aof", str(directory), *more],
        cwd=directory.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.row("R4")
@pytest.mark.parametrize("fault", ["torn tail", "zeros inside", "no manifest"])
def test_damaged_files_are_explained_and_copied_before_they_are_mended(
    stopped: tuple[RunningRedis, Path, list[str]], row: Row, fault: str
) -> None:
    server, place, ids = stopped
    part = next(place.glob("*.incr.aof"))
    assert list(append_only.hazards_of(server.directory)) == []
    match fault:
        case "torn tail":
            os.truncate(part, part.stat().st_size - 7)
        case "zeros inside":
            with part.open("r+b") as file:
                file.seek(part.stat().st_size * 3 // 4)
                file.write(bytes(64))
        case _:
            (place / append_only.MANIFEST).unlink()
    hurt = part.read_bytes()

    (found,) = append_only.hazards_of(server.directory)
    told = doctor(server.directory, "--fix")

    hazard = {"torn tail": "torn-tail", "zeros inside": "hole"}.get(fault, "manifest-missing")
    copies = list(server.directory.glob("appendonlydir.before-fix-*"))
    server.start()
    kept = asyncio.run(queued(server))
    row.figure(
        fault=fault, told=found.hazard == hazard, copies=len(copies), jobs=len(ids), kept=len(kept)
    )
    assert found.hazard == hazard
    assert f"({hazard})" in told.stdout
    assert told.returncode == 0, told.stderr
    assert len(copies) == 1
    assert (copies[0] / part.name).read_bytes() == hurt
    assert len(kept) >= {"torn tail": 190, "zeros inside": 120}.get(fault, 200)


def test_without_its_manifest_redis_starts_empty_and_files_in_use_are_not_touched(
    stopped: tuple[RunningRedis, Path, list[str]],
) -> None:
    """Why the doctor calls it critical: nothing but the missing jobs tells of it."""
    server, place, _ = stopped
    (place / append_only.MANIFEST).unlink()
    server.start()

    assert asyncio.run(queued(server)) == set()
    with pytest.raises(ActionRefused, match="stop that Redis first"):
        append_only.fix(server.directory)


# -- a full disk --------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB; needs root, as CI is."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        lacking("right to mount a small disk (root has it)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def grow(disk: Path) -> None:
    """Make room: 64 MB."""
    command = ["mount", "-o", "remount,size=64m", str(disk)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.row("R5")
async def test_a_full_disk_refuses_loses_nothing_and_heals(
    small_disk: Path, nursery: Any, seed: int, tmp_path: Path, row: Row
) -> None:
    server = start_redis(small_disk / "redis", extra=KEEPS)
    rig = Rig(tmp_path / "rig", server, nursery, seed, 2.0)
    refusal = ""
    try:
        for batch in range(400):
            requests = [
                JobRequest(name="work", args=("x" * 400,), id=f"f{batch}-{n}") for n in range(50)
            ]
            try:
                answers = await enqueue_many(rig.producer, QUEUE, requests)
            except RedisRefused as error:
                refusal = str(error)
                break
            rig.acked.update(answer.id for answer in answers)
        full = len(rig.acked)
        seen = await servers.look_at("queue", rig.producer, server.database(2))
        told = {f.hazard for f in server_hazards.hazards_of(seen)}
        grow(small_disk)
        healed_at = time.monotonic()
        await rig.submit([JobRequest(name="work", id="after")])
        healed_s = time.monotonic() - healed_at
        await crash(server)
        server.start()
        lost = rig.acked - await queued(server)
    finally:
        await rig.close()

    row.figure(acked=full, lost=len(lost), healed_s=healed_s, told=",".join(sorted(told)))
    assert refusal
    assert {"disk-error", "disk-space"} <= told
    assert healed_s < 10
    assert lost == set()


# -- a backup -------------------------------------------------------------------------------------------


def documented(heading: str) -> str:
    """The shell lines of the guide below *heading*."""
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    found = re.search(rf"\n## {heading}\n.*?```sh\n(.*?)```", text, re.DOTALL)
    assert found, heading
    return found[1]


async def test_a_backup_taken_under_load_restores_to_a_state_where_the_law_holds(
    make_rig: MakeRig, tmp_path: Path
) -> None:
    """The guide's own lines take it, while producers and workers go on; another server is started on it."""
    if shutil.which("redis-cli") is None:
        lacking("redis-cli")
    rig = make_rig(lease_s=1, extra=KEEPS)
    worker = rig.start()
    await rig.has_started(worker)
    load = Load(rig).start()
    await grown(rig, sized(2000, 200))
    sure = set(rig.acked)
    backup = tmp_path / "backup"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REDIS_PORT": str(rig.server.port),
        "REDISCLI_AUTH": rig.server.password,
        "REDIS_DIR": str(rig.server.directory),
        "BACKUP": str(backup),
    }
    run = await asyncio.create_subprocess_exec(
        "bash", "-euc", documented("Back up and restore"), env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await run.communicate()
    assert run.returncode == 0, output.decode()
    await grown(rig, 100)  # the load went on
    await load.stop()
    await rig.close_workers()

    other = tmp_path / "other"
    other.mkdir()
    shutil.copytree(backup, other / "appendonlydir")
    restored = RunningRedis(
        redis_binary(), other, unused_port(), rig.server.password, KEEPS
    ).start()
    try:
        rig.start(more={"REDIS_QUEUE_URL": restored.database(2)})
        client = connect(restored.database(2), timeout_s=5, decode_responses=False)
        await until(lambda: _is_empty(client), timeout_s=60)
        verdict = await conserved(client, QUEUE, sure, rig.ledger)
        await client.aclose(close_connection_pool=True)
        await rig.close_workers()
    finally:
        restored.stop()

    assert verdict.lost == ()
    assert verdict.doubled == ()
    assert verdict.stray == ()
    assert verdict.unaccounted == ()
    assert verdict.complete >= len(sure)


async def _is_empty(client: Any) -> bool:
    return bool(await client.zcard(QUEUE) == 0)
