"""What attacks leave behind: log lines, error answers, secrets. Rows S13, S14, S16 of FAULTS.md; runs last."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from app import keys
from app.actions import Actor
from app.api.application import create_api
from app.settings import Settings
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    JOB_SECRET,
    PAYLOAD_KEY,
    REDIS_SECRET,
    Door,
)  # fmt: skip
from tests.integration.test_routes import api_paths

HOSTILE: Final = ["\n{\"event\": \"forged\"}", "\r\nforged: 1", "\x1b[2Jforged", "\u2028forged", '","event":"forged"',
                  "%0a{\"event\":\"forged\"}"]  # fmt: skip


@pytest.mark.row("S13")
def test_hostile_text_forges_no_log_line(door: Door, row: Row) -> None:
    key = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    for n, text in enumerate(HOSTILE):
        safe = text.replace("\r", "").replace("\n", "")
        door.ask("GET", f"/nothing{n}", {"X-Request-Id": safe, "User-Agent": safe, "X-API-Key": safe},
                 source=f"127.0.50.{n + 1}")  # fmt: skip
        for body in (
            {"name": "generic", "options": {"correlationId": text}},
            {"name": text},
            {"name": "generic", "options": {"jobId": text}},
        ):
            door.ask("POST", "/jobs/async-processing", key, json.dumps(body).encode())
        door.ask("POST", "/notifications/user:1", key, json.dumps({"message": text}).encode())
        door.ask(
            "POST",
            "/dead-letters/async-processing/x/discard",
            key,
            json.dumps({"reason": text}).encode(),
        )
    lines = door.log().split("\n")
    first = next(n for n, line in enumerate(lines) if line.startswith("{"))
    parsed, broken = [], []
    for line in lines[first:]:
        if line:
            try:
                parsed.append(json.loads(line))
            except ValueError:
                broken.append(line)
    forged = [one for one in parsed if one.get("event") == "forged"]

    row.figure(lines=len(parsed), broken=len(broken), forged=len(forged))
    assert broken == []
    assert forged == []
    assert len(parsed) > 20
    assert {"timestamp", "level", "logger", "event"} <= set(parsed[-1])


@pytest.mark.row("S16")
async def test_a_failure_inside_tells_a_request_id_and_nothing_else(row: Row) -> None:
    """
    Every route, its runtime replaced by one that fails at each touch.
    """

    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("password=hunter2 at /srv/app/secret.py")

    api: Any = create_api(Broken())  # type: ignore[arg-type]

    async def with_actor(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"actor": Actor(name="x", role="admin")}
        await api(scope, receive, send)

    transport = httpx.ASGITransport(with_actor, raise_app_exceptions=False)
    statuses, leaks = Counter[int](), []
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method, path, _ in api_paths():
            for body in ({}, {"name": "generic"}, {"slots": 1}, {"type": "a.b"}, {"message": "x"}):
                answer = await client.request(method, path, json=None if method == "GET" else body)
                statuses[answer.status_code] += 1
                inside = r"hunter2|Traceback|\.py|RuntimeError|fastapi|starlette"
                if re.search(inside, answer.text) and not path.startswith("/docs"):
                    leaks.append((path, answer.text[:200]))
                if answer.status_code == 500:
                    assert answer.json()["error"]["code"] == "internal"
                    assert answer.json()["requestId"]

    row.figure(statuses=dict(sorted(statuses.items())), leaks=len(leaks))
    assert statuses[500] > 20
    assert leaks == []


@pytest.mark.row("S14")
def test_no_secret_is_in_logs_answers_command_lines_or_exports(door: Door, row: Row) -> None:
    """
    The last of this module: it reads what all attacks before it left behind.
    """
    key = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    job = {"name": "generic", "data": {"password": JOB_SECRET}, "options": {"jobId": "with-secret"}}
    door.ask("POST", "/jobs/async-processing", key, json.dumps(job).encode())
    door.ask(
        "POST",
        "/jobs/nope",
        {**key, "Authorization": f"Bearer {API_KEY}"},
        json.dumps(job).encode(),
    )
    created = list(door.role_keys.values())
    secrets = [
        API_KEY,
        REDIS_SECRET,
        PAYLOAD_KEY,
        JOB_SECRET,
        *(k.split("_", 2)[2] for k in created),
    ]
    settings = Settings(
        api_key=API_KEY, payload_key=PAYLOAD_KEY, redis_password=REDIS_SECRET,
        redis_queue_url=f"redis://:{REDIS_SECRET}@127.0.0.1:1/0",
    )  # fmt: skip
    answers = b"".join(
        door.ask("GET", path, key).body
        for path in ("/health", "/stats", "/metrics", "/audit?limit=500", "/openapi.json", "/workers",
                     "/frames/redis.json", "/frames/dead_letters.csv", "/nothing", "/admin/queues")
    )  # fmt: skip
    process = Path(f"/proc/{door.server.process.pid}/cmdline").read_bytes()
    with door.redis() as queue:
        exported = json.dumps(queue.xrange(keys.AUDIT))
    places = {
        "log": door.log(),
        "settings": repr(settings) + str(settings),
        "answers": answers.decode(errors="replace"),
        "command line": process.decode(errors="replace"),
        "audit": exported,
    }
    hits = [
        (place, n)
        for place, text in places.items()
        for n, secret in enumerate(secrets)
        if secret in text
    ]
    aof = b"".join(path.read_bytes() for path in door.server.redis.directory.rglob("*.aof"))
    stored = [n for n, secret in enumerate([API_KEY, *created]) if secret.encode() in aof]

    row.figure(secrets=len(secrets), places=len(places), hits=len(hits), keys_in_aof=len(stored),
               bytes_read=sum(map(len, places.values())))  # fmt: skip
    assert hits == []
    assert stored == []
