"""The API against its own description: whatever the schema allows is tried, whatever it forbids, too.

A slice runs in CI; ``make schema`` tries for ten minutes (ARQSCOPE_SCHEMA_S).
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
import schemathesis  # noqa: F401 - a test that cannot run must fail
from redis.asyncio import Redis

from app.api.application import create_api
from tests.conftest import RunningRedis, start_redis, wait_until
from tests.letters import bury
from tests.serving import KEY, RunningServer, start_server, stop

#: ignored_auth offers wrong keys until the throttle answers 429, which it takes for a wrong answer; S1 does that.
#: positive_data_acceptance takes every text for a good cursor or channel; what those may be, a schema cannot say.
_NOT_HERE: Final = ["--exclude-checks", "ignored_auth,positive_data_acceptance"]
#: s the tries may take
BUDGET_S: Final = int(os.environ.get("ARQSCOPE_SCHEMA_S", "35"))
#: the slice is the same everywhere; the long run is another one each time, and names its seed when it fails
_SEED: Final = ["--seed", "7"] if BUDGET_S <= 60 else []
#: what the examples in the description are about
STREAM, GROUP = "pyairtable-events", "event-processors"
FINGERPRINT, ENTRY = "3f2a9c01d4e5b678", "1795442400000-0"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRedis]:
    server = start_redis(tmp_path_factory.mktemp("redis"), extra=("--appendfsync", "no"))
    asyncio.run(_fill(server))
    yield server
    server.stop()


async def _fill(server: RunningRedis) -> None:
    """Write what the examples of the description name, so that they meet more than 404."""
    async with Redis.from_url(server.database(2), decode_responses=True) as queue:
        facts: Any = {"fingerprint": FINGERPRINT}
        await bury(queue, "order-1204", **facts)
    async with Redis.from_url(server.database(1), decode_responses=True) as streams:
        event: Any = {"type": "user.created", "data": '{"email": "a@example.com"}', "userId": "u1"}
        await streams.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        await streams.xadd(STREAM, event, id=ENTRY)
        await streams.xadd(STREAM, {"type": "not an event"})
        await streams.xreadgroup(GROUP, "worker-host-17", {STREAM: ">"})


@pytest.fixture(scope="module")
def keyed(redis: RunningRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    directory = tmp_path_factory.mktemp("schema")
    server = start_server(redis, directory, API_KEY=KEY, GENERIC_JOBS="true", LOG_LEVEL="WARNING")
    with server.client(X_API_Key=KEY) as client:
        wait_until(lambda: client.get("/stats").status_code == 200, 10)
        for job_id in ("order-1204", "order-1205"):
            job = {"name": "generic", "options": {"jobId": job_id}}
            client.post("/jobs/async-processing", json=job).raise_for_status()
        client.post("/dead-letters/causes/" + FINGERPRINT, json={"state": "known"})
    yield server
    stop(server)


def test_the_server_keeps_to_its_own_description(keyed: RunningServer, tmp_path: Path) -> None:
    schema = httpx.get(f"{keyed.url}/openapi.json", headers={"X-API-Key": KEY}).json()
    # an answer without end is not for this test, nor its path: Allow would name what is missing
    for path in [p for p, one in schema["paths"].items() if "event-stream" in json.dumps(one)]:
        del schema["paths"][path]
    (tmp_path / "openapi.json").write_text(json.dumps(schema))
    (tmp_path / "schemathesis.toml").write_text("[output.sanitization]\nenabled = false\n")
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", keyed.url,
        "--header", f"X-API-Key: {KEY}", "--checks", "all", *_NOT_HERE, *_SEED, "--no-color",
        "--request-timeout", "10", "--suppress-health-check", "all", "--generation-database", "none",
        "--max-time", str(BUDGET_S), "--max-examples", "1000" if BUDGET_S > 60 else "5",
    ]  # fmt: skip

    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=BUDGET_S + 110, check=False
    )

    tried = re.search(r"(\d+) generated", ended.stdout)
    sys.stdout.write(f"\nschemathesis: {tried[0] if tried else 'nothing'} in {BUDGET_S} s\n")
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert tried is not None
    assert int(tried[1]) > 300


def test_every_example_of_the_description_is_a_valid_request(keyed: RunningServer) -> None:
    """
    Whoever copies one from /docs may meet that something is not there (404) or does not apply (409), never that
    what the description itself proposes is malformed (400) or invalid (422).
    """
    made: Any = create_api(None)  # type: ignore[arg-type]
    schema = made.openapi()
    refused, lacking, asked = [], [], 0
    with keyed.client(X_API_Key=KEY) as client:
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                where, query = path, {}
                for place in operation.get("parameters", ()):
                    if place["in"] == "header" or not place["required"]:
                        continue
                    example = _example_of(place)
                    if example is None:
                        lacking.append(f"{method} {path}: {place['name']}")
                    where = where.replace("{" + place["name"] + "}", quote(str(example), safe=""))
                    if place["in"] == "query":
                        query[place["name"]] = example
                for body in _bodies(schema, operation):
                    more: Any = {} if body is None else {"json": body}
                    with client.stream(method, where, params=query, **more) as answer:
                        asked += 1
                        if answer.status_code in (400, 405, 415, 422) or answer.is_server_error:
                            answer.read()
                            refused.append(f"{method} {where} {body}: {answer.text}")

    assert lacking == []
    assert refused == []
    assert asked > 70


def _example_of(place: Any) -> Any:
    said = place["schema"]
    many = [place.get("example"), *said.get("examples", ()), *said.get("enum", ())]
    return next((one for one in many if one is not None), None)


def _bodies(schema: Any, operation: Any) -> list[Any]:
    """The examples of a request's JSON body; None: it takes none."""
    said = operation.get("requestBody")
    if said is None:
        return [None]
    found = []
    for value in _resolved(schema, said["content"]["application/json"]):
        named = value.get("examples", [])
        found += [one["value"] for one in named.values()] if isinstance(named, dict) else named
        found += [value["example"]] if "example" in value else []
    assert found, operation["operationId"]
    return found


def test_a_client_can_be_generated_from_the_description() -> None:
    """
    Every operation has a name of its own, every answer a shape, every error an example.
    """
    made: Any = create_api(None)  # type: ignore[arg-type]
    schema = made.openapi()
    names, shapeless = [], []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["summary"], path
            for status, answer in operation["responses"].items():
                if "$ref" in answer:
                    answer = schema["components"]["responses"][answer["$ref"].rpartition("/")[2]]
                    example = answer["content"]["application/json"]["example"]
                    assert set(example) == {"error", "requestId"}
                kinds = answer.get("content", {})
                if "event-stream" not in "".join(kinds):
                    shapeless += [
                        f"{method} {path} {status} {kind}"
                        for kind, content in kinds.items()
                        if not content.get("schema")
                    ]
            if "requestBody" in operation:
                body = json.dumps(_resolved(schema, operation["requestBody"]))
                assert '"examples"' in body or '"example"' in body, f"{method} {path}"

    assert schema["openapi"].startswith("3.1")
    assert len(names) == len(set(names)) > 50
    assert shapeless == []
    references = set(re.findall(r'"#/components/([^"]+)"', json.dumps(schema)))
    missing = [r for r in references if not _found(schema["components"], r.split("/"))]
    assert missing == []


def _found(components: Any, parts: list[str]) -> Any:
    return components.get(parts[0], {}).get(parts[1])


def _resolved(schema: Any, value: Any) -> Any:
    """Return *value* with its references to schemas filled in, one level deep."""
    names = re.findall(r"#/components/schemas/([^\"]+)\"", json.dumps(value))
    return [value, *(schema["components"]["schemas"][name] for name in names)]
