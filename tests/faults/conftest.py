"""Rows of FAULTS.md: their seeds, their sizes, the line each prints and the file it is kept in.

``ARQSCOPE_FAULTS=full`` runs the sizes of FAULTS.md and keeps the outcomes in ``results.json``;
without it a slice runs and only prints. ``ARQSCOPE_FAULTS_ONLY=W1,R6`` picks rows,
``ARQSCOPE_FAULTS_SEEDS=7,11`` the seeds.
"""

import fcntl
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import redis_binary, start_redis
from tests.faults.event_rig import EventRig
from tests.faults.nursery import Nursery
from tests.faults.rig import FULL, Rig

RESULTS: Final = Path(__file__).with_name("results.json")
#: a figure that is not the row's
MACHINE: Final = "machine_load"
_seeds = os.environ.get("ARQSCOPE_FAULTS_SEEDS") or ("7,11,23" if FULL else "7")
SEEDS: Final = [int(part) for part in _seeds.split(",")]
ONLY: Final = set(filter(None, os.environ.get("ARQSCOPE_FAULTS_ONLY", "").upper().split(",")))
#: real containers need root and minutes: `make compose-test`, or the row by name
collect_ignore = (
    []
    if os.environ.get("ARQSCOPE_COMPOSE") or "S24" in ONLY
    else ["test_containers.py", "test_manifests.py"]
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(id): the row of FAULTS.md a test proves")
    config.addinivalue_line("markers", "seeded: chance decides the injection; every seed is run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        seeds = SEEDS if metafunc.definition.get_closest_marker("seeded") else SEEDS[:1]
        metafunc.parametrize("seed", seeds)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    dropped = []
    for item in items:
        mark = item.get_closest_marker("row")
        if mark is not None and ONLY and mark.args[0] not in ONLY:
            dropped.append(item)
        elif mark is not None and FULL:
            item.add_marker(pytest.mark.faults)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call":
        item.stash[_OUTCOME] = (report.outcome, report.longreprtext[-300:])
    return report


_OUTCOME: Final = pytest.StashKey[tuple[str, str]]()


class Row:
    """One row: collects its figures; printed and kept when the test has ended."""

    def __init__(self, row_id: str, seed: int) -> None:
        self.id = row_id
        self.seed = seed
        self.figures: dict[str, Any] = {}

    def figure(self, **figures: Any) -> None:
        """Add figures to the row."""
        for name, value in figures.items():
            self.figures[name] = round(value, 3) if isinstance(value, float) else value


@pytest.fixture
def row(request: pytest.FixtureRequest, seed: int) -> Iterator[Row]:
    """The row of FAULTS.md this test proves, from its ``row`` mark."""
    mark = request.node.get_closest_marker("row")
    made = Row(mark.args[0], seed)
    yield made
    outcome, text = request.node.stash.get(_OUTCOME, ("failed", "ended early"))
    figures = {**made.figures, **({"error": text} if outcome == "failed" else {})}
    word = {"passed": "PASS", "skipped": "SKIP"}.get(outcome, "FAIL")
    shown = " ".join(f"{name}={value}" for name, value in made.figures.items())
    capture: Any = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        sys.stdout.write(f"\n{made.id} {word} seed={seed} {shown}\n")
        sys.stdout.flush()
    if FULL and outcome != "skipped":
        _keep(
            {
                "id": made.id,
                "passed": outcome == "passed",
                "seed": seed,
                # the load of the whole machine in the last minute: what a latency is to be read with
                "figures": {**figures, MACHINE: round(os.getloadavg()[0], 1)},
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )


def _keep(entry: dict[str, Any]) -> None:
    """Put *entry* in place of the last outcome of the same row, figures and seed."""
    with RESULTS.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        kept = [
            old
            for old in (json.loads(text) if text else [])
            if _which(old) != _which(entry)
            and not (
                old["id"] == entry["id"] and old["seed"] == entry["seed"] and not old["passed"]
            )
        ]
        kept.append(entry)
        kept.sort(key=lambda e: (e["id"][0], int(e["id"][1:]), e["seed"], e["date"]))
        file.seek(0)
        file.truncate()
        file.write(json.dumps(kept, indent=1) + "\n")


def _which(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Which outcomes stand for one another: the same row, seed, figures and variant."""
    figures = entry["figures"]
    variant = (figures.get("redis"), figures.get("fault"))
    return entry["id"], entry["seed"], sorted(figures.keys() - {MACHINE}), *variant


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Forks workers for every test of the session."""
    with Nursery() as made:
        yield made


@pytest.fixture
async def make_rig(
    tmp_path: Path, nursery: Nursery, seed: int
) -> AsyncIterator[Callable[..., Rig]]:
    """Build a rig: ``make_rig(lease_s=1)``; *extra* are redis-server options."""
    made: list[Rig] = []

    def make(
        *, lease_s: float = 1.0, extra: tuple[str, ...] = ("--appendfsync", "everysec")
    ) -> Rig:
        directory = tmp_path / f"rig-{len(made)}"
        server = start_redis(directory / "redis", extra=extra)
        rig = Rig(directory, server, nursery, seed, lease_s)
        made.append(rig)
        return rig

    yield make
    for rig in made:
        await rig.close()


@pytest.fixture
async def make_event_rig(
    tmp_path: Path, nursery: Nursery, seed: int
) -> AsyncIterator[Callable[..., EventRig]]:
    """Build a rig for events: ``make_event_rig(kind="bundled")`` on 6.2; *apart*: a queue server."""
    made: list[EventRig] = []

    def make(*, lease_s: float = 1.0, kind: str = "system", apart: bool = False) -> EventRig:
        directory = tmp_path / f"rig-{len(made)}"
        extra = ("--appendfsync", "everysec")
        server = start_redis(directory / "redis", redis_binary(kind), extra=extra)
        queue = start_redis(directory / "queue", extra=extra) if apart else server
        made.append(EventRig(directory, server, queue, nursery, seed, lease_s))
        return made[-1]

    yield make
    for rig in made:
        await rig.close()
