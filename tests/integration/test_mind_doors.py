"""Causes and alerts through their doors: HTTP and the command, with the same actions behind both."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import cli, keys
from app.actions import Actor, Connections
from app.api.application import create_api
from app.collector import Collector
from app.notebook import connect
from app.settings import Settings
from tests.letters import ANN, EVE, QUEUE, bury
from workers.letters.rounds import DeadLetterProcessor
from workers.policies import Action, Rule


class Runtime:
    """What the API needs of a server."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self.settings = settings
        self.connections = connections
        self.collector = Collector(settings)


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
async def runtime(settings: Settings, connections: Connections) -> Any:
    made = Runtime(settings, connections)
    await bury(connections.queue, "j1", fingerprint="abc1", error_type="PermissionError")
    await bury(connections.queue, "j2", fingerprint="abc2", error_type="ConnectionError")
    processor = DeadLetterProcessor(
        settings,
        connections.queue,
        connections.streams,
        connections.cache,
        (Rule(name="all", action=Action.ALERT),),
    )
    await processor.round()
    await made.collector.sample()
    yield made
    await made.collector.stop()


class _As:
    """Calls the API as an actor the guard let in."""

    def __init__(self, app: FastAPI, actor: Actor) -> None:
        self._app = app
        self._actor = actor

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["actor"] = self._actor
        await self._app(scope, receive, send)


def client_of(runtime: Any, actor: Actor = ANN) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=_As(create_api(runtime), actor))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_causes_are_listed_changed_and_explained(runtime):
    async with client_of(runtime) as api:
        listed = (await api.get("/dead-letters/causes")).json()
        one = (await api.get("/dead-letters/causes/abc1")).json()
        asked = {"state": "known", "owner": "bob", "note": "asked the provider"}
        done = await api.post("/dead-letters/causes/abc1", json=asked)
        again = await api.post("/dead-letters/causes/abc1", json=asked)
        why = (await api.get("/dead-letters/causes/abc1/explain")).json()
        nobody = await api.get("/dead-letters/causes/ffff/explain")
        wrong = await api.post("/dead-letters/causes/abc1", json={"state": "regressed"})

    assert {row["fingerprint"]: (row["count"], row["total"], row["state"]) for row in listed} == {
        "abc1": (1, 1, "new"),
        "abc2": (1, 1, "new"),
    }
    assert one["periods"]["1h"] == 1
    assert [h["count"] for h in one["hours"]] == [1]
    assert (done.json()["changed"], again.json()["changed"]) == (True, False)
    assert why["cause"]["owner"] == "bob"
    assert why["elsewhere"][0]["source"] == QUEUE
    assert "too few" in why["sharedNote"]
    assert (nobody.status_code, wrong.status_code) == (404, 422)


async def test_alerts_are_listed_acknowledged_and_silenced(runtime):
    async with client_of(runtime) as api:
        listed = (await api.get("/alerts")).json()
        name = listed[0]["id"]
        acked = await api.post(f"/alerts/{name}/ack", json={"note": "on it"})
        hushed = await api.post(f"/alerts/{name}/silence", json={"seconds": 60})
        after = (await api.get("/alerts", params={"state": "acknowledged"})).json()
        nobody = await api.post("/alerts/cause-0000/ack")
        tested = await api.post("/alerts/backtest", json={"metric": "backlog", "above": 10})
        broken = await api.post("/alerts/backtest", json={"metric": "nothing", "above": 10})
        rules = (await api.get("/alerts/rules")).json()
    async with client_of(runtime, EVE) as viewer:
        refused = await viewer.post(f"/alerts/{name}/ack")

    assert {alert["state"] for alert in listed} == {"firing"}
    assert acked.json()["changed"]
    assert hushed.json()["changed"]
    assert [(a["id"], a["actor"], a["note"]) for a in after] == [(name, "ann", "on it")]
    assert (nobody.status_code, refused.status_code) == (404, 403)
    assert tested.json() == []
    assert broken.status_code == 422
    assert {rule["name"] for rule in rules["rules"]} >= {"no worker"}
    lines = await runtime.connections.queue.xrevrange(keys.AUDIT)
    assert any("silence_alert" in fields["body"] for _, fields in lines)


@pytest.fixture
def command(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Awaitable[str]]:
    """Run the command in a thread of this process: starting one costs seconds of imports."""
    for role in ("redis_url", "redis_streams_url", "redis_queue_url"):
        monkeypatch.setenv(role.upper(), getattr(settings, role))
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    async def run(*words: str) -> str:
        capsys.readouterr()
        await asyncio.to_thread(cli.app, list(words), standalone_mode=False)
        return capsys.readouterr().out

    return run


async def test_the_command_tests_rules_explains_and_sets_causes(runtime, command, tmp_path: Path):
    rules = tmp_path / "other.toml"
    rules.write_text('[[policies]]\nname = "mine"\naction = "ARCHIVE"\nexception = "Perm*"\n')

    decided = json.loads(await command("dlq", "policy", "--test", "--json", "--rules", str(rules)))
    table = await command("dlq", "policy", "--test")
    told = await command("dlq", "cause", "abc1", "--state", "resolved")
    why = await command("dlq", "explain", "abc1")
    listed = json.loads(await command("alerts", "list", "--json"))

    assert {row["id"]: (row["action"], row["rule"]) for row in decided} == {
        "j1": ("ARCHIVE", "mine"),
        "j2": ("RETRY", "connection, timeout or rate limit"),
    }
    assert "authentication or permission" in table
    assert await runtime.connections.queue.zcard(keys.dead_open(QUEUE)) == 2  # nothing was done
    assert "state resolved" in told
    assert "PermissionError: boom" in why
    assert "too few" in why
    assert len(listed) == 2


async def test_a_notebook_explains_and_tests_rules(runtime, settings: Settings):
    def use() -> tuple[Any, Any]:
        with connect(settings) as scope:
            return scope.explain("abc1"), scope.backtest("backlog", above=10)

    found, firings = await asyncio.to_thread(use)

    assert found.cause.fingerprint == "abc1"
    assert firings.empty
