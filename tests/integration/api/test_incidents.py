"""Incident bundles over HTTP: the notebook's zip, for whoever may look; audited, bounded, masked."""

import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest
from redis import Redis

from app import keys
from app.exports.incident import Bounds, incident
from app.notebook import connect
from app.settings import Settings
from tests.conftest import RunningRedis
from tests.integration.scope_rig import QUEUE, letter_of, put_letter, put_runs, run_of
from tests.integration.test_incident import SECRET
from tests.serving import RunningServer


@pytest.fixture
def past_hour(redis: RunningRedis) -> Iterator[dict[str, str]]:
    """Runs and letters of the hour a request is about, and that hour as its query."""
    with Redis.from_url(redis.database(2), decode_responses=True) as client:
        put_runs(client, [run_of(n) for n in range(1, 20)])
        put_letter(client, letter_of(1, error=f"refused, token={SECRET}"))
        yield stretch_of(timedelta(hours=1))
        client.delete(keys.runs(QUEUE), keys.dead_open(QUEUE), keys.dead_record(QUEUE, "d1"))


def stretch_of(length: timedelta) -> dict[str, str]:
    now = datetime.now(UTC) + timedelta(minutes=1)
    return {"start": (now - length).isoformat(), "end": now.isoformat()}


def opened(body: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(body)) as packed:
        assert packed.testzip() is None
        return {name: packed.read(name) for name in packed.namelist()}


def test_a_stretch_is_answered_with_the_zip_a_notebook_makes(
    api: httpx.Client, past_hour: dict[str, str], redis: RunningRedis, tmp_path: Path
) -> None:
    answer = api.get("/incident", params=past_hour)

    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert 'filename="incident-' in answer.headers["content-disposition"]
    files = opened(answer.content)
    with connect(
        redis_url=redis.database(0), redis_streams_url=redis.database(1),
        redis_queue_url=redis.database(2), keep_history=False,
    ) as scope:  # fmt: skip
        mine = scope.incident(past_hour["start"], past_hour["end"], path=tmp_path / "mine.zip")
    assert set(files) == set(opened(mine.read_bytes()))
    assert len(pd.read_parquet(io.BytesIO(files["frames/runs.parquet"]))) == 19
    letters = pd.read_parquet(io.BytesIO(files["frames/dead_letters.parquet"]))
    assert letters["error"].to_list() == ["refused, token=***"]
    assert not any(SECRET.encode() in body for body in files.values())
    assert json.loads(files["incident.ipynb"])["nbformat"] == 4
    page = files["charts/charts.html"].decode()
    assert "Bokeh" in page
    assert "<script src" not in page


def test_it_is_in_the_audit_before_it_is_read(api: httpx.Client, past_hour: dict[str, str]) -> None:
    api.get("/incident", params={**past_hour, "queue": QUEUE})

    newest = api.get("/audit", params={"limit": 1}).json()["items"][0]
    told = json.loads(newest["body"])
    assert (told["action"], told["target"], told["actor"]) == ("make_incident", QUEUE, "local")
    assert told["detail"]["start"].startswith(past_hour["start"][:19])


def test_of_one_queue_it_holds_nothing_of_the_others(
    api: httpx.Client, past_hour: dict[str, str]
) -> None:
    found = opened(api.get("/incident", params={**past_hour, "queue": "long-running-jobs"}).content)

    history = pd.read_parquet(io.BytesIO(found["frames/history.parquet"]))
    assert set(history["source"]) == {"long-running-jobs"}
    assert pd.read_parquet(io.BytesIO(found["frames/runs.parquet"])).empty
    assert pd.read_parquet(io.BytesIO(found["frames/stream_history.parquet"])).empty


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ({"start": "2026-11-23T12:00Z", "end": "2026-11-23T12:00Z"}, 422, "start"),
        ({"start": "2026-11-01T12:00Z", "end": "2026-11-23T12:00Z"}, 422, "end"),
        ({"start": "1795442400000", "end": "2026-11-23T12:00Z"}, 422, "start"),
        ({"end": "2026-11-23T12:00Z"}, 422, "start"),
        ({"start": "2026-11-23T11:00Z", "end": "2026-11-23T12:00Z", "queue": "nobody"}, 404, None),
    ],
)
def test_a_stretch_that_is_none_is_refused_and_not_audited(
    api: httpx.Client, query: dict[str, str], status: int, field: str | None
) -> None:
    before = api.get("/audit", params={"limit": 1}).json()["items"]

    answer = api.get("/incident", params=query)

    assert answer.status_code == status
    assert answer.json()["error"]["field"] == field or status == 404
    assert api.get("/audit", params={"limit": 1}).json()["items"] == before


def test_without_a_key_there_is_no_bundle(keyed: RunningServer) -> None:
    with keyed.client() as client:
        assert client.get("/incident", params=stretch_of(timedelta(hours=1))).status_code == 401


def test_what_bounds_leave_out_is_said(settings: Settings) -> None:
    with Redis.from_url(settings.url("queue"), decode_responses=True) as client:
        put_runs(client, [run_of(n) for n in range(1, 300)])
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    with connect(settings, sample_interval_s=60, keep_history=False) as scope:
        bounds = Bounds(sources=1, rows=150)
        scope.enqueue(QUEUE, "generic", {})
        scope.refresh()
        files = opened(incident(scope.deployment, now_ms - 3_600_000, now_ms, bounds))

    said = files["README.md"].decode()
    assert "Of 3 queues it has the 1 with most in them." in said
    assert "runs: at most 150 of each queue, the newest." in said
    assert len(pd.read_parquet(io.BytesIO(files["frames/runs.parquet"]))) == 150
