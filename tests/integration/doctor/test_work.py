"""Hazards of queues, streams and settings: each is planted and found under its name."""

from typing import Any

import pytest

from app.doctor.findings import Severity
from tests.integration.doctor.conftest import Clinic
from tests.integration.doctor.plants import (
    Plant,
    backlog,
    dead_consumer,
    foreign,
    many_consumers,
    many_letters,
    no_group,
    no_processor,
    no_timeout,
    nobody,
    paused,
    payload_ends,
    payload_gone,
    result_forever,
    result_of_a_waiting_job,
    stale_abort,
    stale_abort_of_a_waiting_job,
    starved,
    stock_beside_ours,
    stock_health,
    stuck,
    trimmed_pending,
    trimmed_unread,
    trouble,
    two_versions,
)

QUEUES: list[tuple[str, Severity, Plant]] = [
    ("stale-aborts", Severity.WARNING, stale_abort),
    ("stale-aborts", Severity.CRITICAL, stale_abort_of_a_waiting_job),
    ("results-forever", Severity.WARNING, result_forever),
    ("result-blocks-id", Severity.WARNING, result_of_a_waiting_job),
    ("payload-gone", Severity.CRITICAL, payload_gone),
    ("payload-expires", Severity.WARNING, payload_ends),
    ("stock-beside-ours", Severity.CRITICAL, stock_beside_ours),
    ("no-timeout", Severity.WARNING, no_timeout),
    ("starvation", Severity.CRITICAL, starved),
    ("stock-health", Severity.WARNING, stock_health),
    ("no-worker", Severity.CRITICAL, nobody),
    ("paused", Severity.NOTICE, paused),
    ("backlog", Severity.WARNING, backlog),
    ("stuck", Severity.CRITICAL, stuck),
    ("mixed-versions", Severity.NOTICE, two_versions),
    ("worker-trouble", Severity.WARNING, trouble),
    ("dead-letters-cap", Severity.WARNING, many_letters),
    ("shared-redis", Severity.NOTICE, foreign),
]


@pytest.mark.parametrize(
    ("hazard", "severity", "plant"), QUEUES, ids=[plant.__name__ for _, _, plant in QUEUES]
)
async def test_hazards_of_queues(
    clinic: Clinic, hazard: str, severity: Severity, plant: Plant
) -> None:
    assert hazard not in {f.hazard for f in (await clinic.examine()).findings}

    await plant(clinic)

    assert (await clinic.finding(hazard)).severity is severity


STREAMS: list[tuple[str, Severity, Plant]] = [
    ("no-group", Severity.CRITICAL, no_group),
    ("trimmed-unread", Severity.CRITICAL, trimmed_unread),
    ("trimmed-pending", Severity.CRITICAL, trimmed_pending),
    ("no-processor", Severity.CRITICAL, no_processor),
    ("many-consumers", Severity.NOTICE, many_consumers),
]


@pytest.mark.parametrize(
    ("hazard", "severity", "plant"), STREAMS, ids=[plant.__name__ for _, _, plant in STREAMS]
)
async def test_hazards_of_streams(
    clinic: Clinic, hazard: str, severity: Severity, plant: Plant
) -> None:
    assert hazard not in {f.hazard for f in (await clinic.examine()).findings}

    await plant(clinic)

    assert (await clinic.finding(hazard, "stream")).severity is severity


async def test_a_consumer_that_died_with_entries(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent for the time given: Redis counts a consumer's idle time itself."""
    await dead_consumer(clinic)
    monkeypatch.setattr("app.doctor.streams.DEAD_MS", -1)

    found = await clinic.finding("dead-consumers")

    assert "2 entries" in found.evidence
    monkeypatch.undo()
    assert (await clinic.finding("old-pending")).severity is Severity.WARNING


@pytest.mark.parametrize(
    ("hazard", "more"),
    [
        ("pickle", {"allow_pickle": True}),
        ("no-api-key", {"queue_ui_host": "0.0.0.0"}),
        ("short-lease", {"lease_s": 1.0}),
    ],
)
async def test_hazards_of_settings(clinic: Clinic, hazard: str, more: dict[str, Any]) -> None:
    assert (await clinic.finding(hazard, "settings", **more)).severity is Severity.WARNING
