"""What is stored is data: pickles, paths, formulas, commands. Rows S10, S11, S15, S23 of FAULTS.md."""

import base64
import csv
import io
import json
import pickle
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync

from app import keys
from app.errors import BadPayload
from app.payloads.codec import Codec
from app.records import DeadLetter, LetterState
from tests.conftest import wait_until
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    PAYLOAD_KEY,
    Door,
)  # fmt: skip


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._canary,)


@pytest.mark.row("S10")
def test_a_pickle_in_redis_or_a_cookie_is_never_opened(
    door: Door, row: Row, tmp_path: Path
) -> None:
    canary = tmp_path / "exploded"
    bomb = pickle.dumps({"t": 1, "f": "generic", "a": (_Bomb(canary),), "k": {}, "et": 1})
    with redis_sync.Redis.from_url(door.server.redis.database(2)) as queue:
        for n, raw in enumerate(
            (bomb, b'{"exc_module":"os","exc_type":"system"}', b"\x80\x05garbage")
        ):
            queue.set(keys.arq_job(f"bomb{n}"), raw)
            queue.set(keys.arq_result(f"done{n}"), raw)
            queue.zadd("async-processing", {f"bomb{n}": time.time() * 1000})
    key = {"X-API-Key": API_KEY}
    paths = ["/jobs/async-processing", "/jobs/async-processing?state=completed", "/frames/runs.json",
             *(f"/jobs/async-processing/{kind}{n}" for kind in ("bomb", "done") for n in range(3))]  # fmt: skip
    statuses = [door.ask("GET", path, key).status for path in paths]
    cookie = base64.urlsafe_b64encode(bomb).decode().rstrip("=")
    door.ask("GET", "/stats", {"Cookie": f"arqscope_session={cookie}.x"})
    refused = 0
    for raw in (bomb, b'{"exc_module":"os"}'):
        try:
            Codec(key=PAYLOAD_KEY.encode()).decode_job(raw)
        except BadPayload:
            refused += 1
    with redis_sync.Redis.from_url(door.server.redis.database(2)) as queue:
        queue.delete("async-processing")

    row.figure(read=len(paths), exploded=int(canary.exists()), refused_by_worker_codec=refused)
    assert not canary.exists()
    assert refused == 2
    assert all(status in (200, 404, 409, 422) for status in statuses), statuses


@pytest.mark.row("S11")
def test_a_path_or_a_pattern_in_a_name_reaches_neither_files_nor_keys(door: Door, row: Row) -> None:
    key = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    names = ["..", "../../etc/passwd", "%2e%2e", "..%2f..%2fetc", "*", "?", "[a-z]*", "a%0d%0aSet-Cookie:x",
             "x" * 10_000, "%00", "arq:job:*", "~", "a b", "'", '"', "%ff"]  # fmt: skip
    with door.redis() as watched, watched.monitor() as monitor:
        statuses = Counter[int]()
        for name in names:
            for path in (f"/jobs/{name}", f"/jobs/async-processing/{name}", f"/queues/{name}",
                         f"/dead-letters/{name}", f"/frames/{name}.csv", f"/docs/assets/{name}",
                         f"/static/{name}"):  # fmt: skip
                answer = door.ask("GET", path.replace(" ", "%20"), key)
                statuses[answer.status] += 1
                assert b"root:" not in answer.body
                assert "set-cookie" not in answer.headers
            statuses[
                door.ask(
                    "POST", f"/jobs/{name.replace(' ', '%20')}", key, b'{"name":"generic"}'
                ).status
            ] += 1
        watched.get("end-of-watch")
        seen = []
        while "end-of-watch" not in (command := str(monitor.next_command()["command"])):
            seen.append(command)
    patterned = [c for c in seen if re.match(r"(KEYS|SCAN)\b", c, re.IGNORECASE)]

    row.figure(tries=sum(statuses.values()), statuses=dict(sorted(statuses.items())),
               commands=len(seen), patterns=len(patterned))  # fmt: skip
    assert patterned == []
    assert set(statuses) <= {200, 400, 404, 405, 422}
    assert statuses[200] <= 2 * len(names)


@pytest.mark.row("S15")
def test_a_spreadsheet_finds_no_formula_in_an_export(door: Door, row: Row) -> None:
    hostile = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", '"=1', "=1,2\n=3"]
    with door.redis() as queue:
        for n, text in enumerate(hostile):
            letter = DeadLetter(
                id=f"csv{n}", kind="job", source="async-processing", name=text, state=LetterState.NEW,
                reason="attempts", error_type=text, error=text, died_ms=int(time.time() * 1000),
            )  # fmt: skip
            queue.hset(keys.dead_record("async-processing", letter.id), mapping=letter.to_fields())
            queue.zadd(keys.dead_open("async-processing"), {letter.id: letter.died_ms})
            queue.hincrby(keys.totals("async-processing"), "dead", 1)
    key = {"X-API-Key": API_KEY}
    wait_until(lambda: b"csv7" in door.ask("GET", "/frames/dead_letters.csv", key).body, 10)
    cells = formulas = 0
    for name in ("dead_letters", "causes", "queues", "runs", "events", "workers", "redis"):
        text = door.ask("GET", f"/frames/{name}.csv", key).body.decode()
        for line in list(csv.reader(io.StringIO(text, newline="")))[1:]:
            for cell in line:
                cells += 1
                number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", cell)
                formulas += cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not number

    row.figure(cells=cells, formulas=formulas)
    assert cells > 50
    assert formulas == 0


@pytest.mark.row("S23")
def test_what_a_job_says_is_data(door: Door, row: Row) -> None:
    key = {"X-API-Key": API_KEY, "Content-Type": "application/json"}
    texts = [
        "; rm -rf /",
        "$(touch pwned)",
        "{0.__class__.__mro__}",
        "%s%s%n",
        "__import__('os')",
        "${jndi:x}",
    ]
    names = [
        "os.system",
        "__class__",
        "generic.__globals__",
        "builtins.eval",
        "generic; id",
        "workers.jobs.generic",
    ]
    kept = 0
    for n, text in enumerate(texts):
        body = {
            "name": "generic",
            "args": [text],
            "kwargs": {"__class__": text},
            "options": {"jobId": f"data{n}"},
        }
        assert (
            door.ask("POST", "/jobs/async-processing", key, json.dumps(body).encode()).status == 201
        )
        seen = json.loads(door.ask("GET", f"/jobs/async-processing/data{n}", key).body)
        kept += (
            seen["arguments"]["args"] == [text] and seen["arguments"]["kwargs"]["__class__"] == text
        )
    refused = [
        door.ask("POST", "/jobs/async-processing", key, json.dumps({"name": name}).encode()).status
        for name in names
    ]
    with door.redis() as queue:
        queue.delete("async-processing")

    row.figure(texts=len(texts), kept_as_they_were=kept, names_refused=refused.count(422))
    assert kept == len(texts)
    assert refused == [422] * len(names)
    assert not (door.directory / "pwned").exists()
