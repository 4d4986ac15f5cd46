"""The audit chain and the versions we stand on. Rows S21, S22 and C9 of FAULTS.md."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app import audit, keys
from tests.conftest import ROOT, start_redis
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    Door,
)  # fmt: skip
from tests.integration.test_routes import READS_BY_POST


@pytest.mark.row("S21")
async def test_the_chain_shows_every_manipulation(row: Row, tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    redis = Redis.from_url(server.url, decode_responses=True)

    async def written() -> list[tuple[str, dict[str, str]]]:
        await redis.delete(keys.AUDIT)
        for n in range(8):
            await audit.record(redis, "ada", "pause_queue", f"q{n}", {"n": n})
        return list(await redis.xrange(keys.AUDIT))

    async def rewritten(lines: list[tuple[str, dict[str, str]]]) -> None:
        await redis.delete(keys.AUDIT)
        for entry_id, fields in lines:
            await redis.xadd(keys.AUDIT, fields, id=entry_id)  # type: ignore[arg-type]

    found = {}
    lines = await written()
    assert (await audit.verify(redis)).ok
    await redis.xdel(keys.AUDIT, lines[3][0])
    found["removed"] = not (await audit.verify(redis)).ok
    lines = await written()
    lines[3][1]["body"] = lines[3][1]["body"].replace("ada", "eve")
    await rewritten(lines)
    found["altered"] = not (await audit.verify(redis)).ok
    lines = await written()
    (first, a), (second, b) = lines[3], lines[4]
    await rewritten([*lines[:3], (first, b), (second, a), *lines[5:]])
    found["moved"] = not (await audit.verify(redis)).ok
    await written()
    await redis.xdel(keys.AUDIT, (await redis.xrevrange(keys.AUDIT, count=1))[0][0])
    found["end removed"] = not (await audit.verify(redis)).ok
    lines = await written()
    await redis.xtrim(keys.AUDIT, maxlen=5, approximate=False)
    found["beginning removed"] = not (await audit.verify(redis)).ok
    await redis.aclose()
    server.stop()

    row.figure(manipulations=len(found), detected=sum(found.values()))
    assert all(found.values()), found


@pytest.mark.row("S22")
def test_no_dependency_is_older_than_its_last_known_hole(row: Row) -> None:
    least = {"tornado": (6, 6, 0), "bokeh": (3, 8, 2), "redis": (5, 2, 0), "fastapi": (0, 115, 0)}
    have = {name: tuple(map(int, version(name).split(".")[:3])) for name in least}
    lock = (ROOT / "constraints.txt").read_text()

    row.figure(**{name: version(name) for name in least})
    assert all(have[name] >= least[name] for name in least)
    assert "bokeh-fastapi" not in lock
    assert all(f"{name}==" in lock for name in least)


@pytest.mark.row("C9")
def test_nothing_is_done_that_the_audit_cannot_hold(door: Door, row: Row) -> None:
    """
    The queue Redis out of memory, then the audit's key of a wrong type: refused, and views go on.

    Every changing route is asked, with each example of its description: none may say that it acted.
    """
    key = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    changing = [(path, body) for path, body in (
        ("/queues/async-processing/pause", {}), ("/jobs/async-processing", {"name": "generic"}),
        ("/queues/async-processing/concurrency", {"slots": 3}), ("/events", {"type": "user.created"}),
        ("/notifications/user:1", {"message": "x"}),
    )]  # fmt: skip
    for verb in ("pause", "resume"):  # the audit holds something
        assert door.ask("POST", f"/queues/async-processing/{verb}", key).status == 200
    described = json.loads(door.ask("GET", "/openapi.json", key).body)
    asked = list(_examples(described))
    before, statuses, views = door.effects(), Counter[int](), Counter[int]()
    everywhere, acted = Counter[int](), []
    with door.redis() as queue:
        for break_, mend in (
            (lambda: queue.config_set("maxmemory", "1"), lambda: queue.config_set("maxmemory", "0")),
            (lambda: queue.rename(keys.AUDIT, "kept") and queue.set(keys.AUDIT, "x"),
             lambda: queue.delete(keys.AUDIT) and queue.rename("kept", keys.AUDIT)),
        ):  # fmt: skip
            break_()
            for path, body in changing:
                statuses[door.ask("POST", path, key, json.dumps(body).encode()).status] += 1
            for path, body in asked:
                status = door.ask("POST", path, key, json.dumps(body).encode()).status
                everywhere[status] += 1
                acted += [path] if status < 400 else []
            for path in ("/stats", "/queues", "/dead-letters", "/admin/queues"):
                views[door.ask("GET", path, key).status] += 1
            mend()

    row.figure(refused=dict(statuses), views=dict(views), acted=int(door.effects() != before),
               everywhere=dict(sorted(everywhere.items())))  # fmt: skip
    assert set(statuses) == {503}
    assert len(asked) > 30
    assert acted == []
    assert set(everywhere) <= {404, 409, 422, 503}
    assert set(views) == {200}
    assert door.effects() == before


def _examples(described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every changing route with its placeholders filled, and each body its description shows."""
    schemas = described["components"]["schemas"]
    for path, operations in described["paths"].items():
        if "post" not in operations or path in READS_BY_POST | {"/foreign"}:  # looks again, is all
            continue
        operation = operations["post"]
        places = {p["name"]: p for p in operation["parameters"] if p["in"] == "path"}
        paths = [path]
        for name, place in places.items():
            told = place["schema"]
            values = told.get("enum") or [place.get("example") or told["examples"][0]]
            paths = [one.replace(f"{{{name}}}", value) for one in paths for value in values]
        text = json.dumps(operation.get("requestBody", {}))
        names = re.findall(r"#/components/schemas/(\w+)", text)
        bodies = [body for name in names for body in schemas[name].get("examples", ())] or [{}]
        # an operation is shown dry, which changes nothing
        bodies = [body | ({"dry_run": False} if "dry_run" in body else {}) for body in bodies]
        yield from ((one, body) for one in paths for body in bodies)
