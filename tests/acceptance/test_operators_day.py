"""An operator's day by curl alone: the README's own lines, run one after the other against a whole stack."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_whole_path import QUEUE, Walk
from tests.conftest import ROOT, redis_binary, wait_until

KEY = "operators-key-0123456789abcdef"
JOBS = 24


def lines_of(section: str) -> list[str]:
    """The commands a section of the README shows, what goes on over several lines joined."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text.split(f"### {section}\n", 1)[1].split("\n### ", 1)[0]
    blocks = re.findall(r"```console\n(.*?)```", part, re.DOTALL)
    return [
        found[2:].rstrip("\n")
        for block in blocks
        for found in re.findall(r"^\$ .*\n(?:    .*\n)*", block, re.MULTILINE)
    ]


class Terminal:
    """One bash that stays open, as an operator's does; curl fails on what the server refuses."""

    def __init__(self, directory: Path, url: str) -> None:
        (directory / ".curlrc").write_text("fail-with-body\nmax-time = 20\n")
        self._url = url
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory,
            env={"PATH": os.environ["PATH"], "CURL_HOME": str(directory), "API_KEY": KEY},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, line: str) -> str:
        """Type a line; what it printed. It must succeed."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        typed = line.replace("http://localhost:8009", self._url)
        self._bash.stdin.write(f"{typed}\nprintf '\\nended %s\\n' $?\n")
        self._bash.stdin.flush()
        said: list[str] = []
        while not (ended := re.fullmatch(r"ended (\d+)\n", got := self._bash.stdout.readline())):
            assert got, f"bash ended: {typed}"
            said.append(got)
        assert ended[1] == "0", f"{typed}\n{''.join(said)}"
        return "".join(said).strip()

    def close(self) -> None:
        self._bash.communicate(timeout=20)


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    redis_binary()
    made = Walk(tmp_path, API_KEY=KEY)
    made.http.headers["X-API-Key"] = KEY
    try:
        wait_until(made.ready, 60, "the stack answers")
        yield made
    finally:
        made.http.close()
        made.up.process.terminate()
        try:
            made.up.process.wait(60)
        finally:
            made.up.end()


def test_an_operators_day_works_by_curl_alone(walk: Walk, tmp_path: Path) -> None:
    """
    List failures, group them, mend one, retry the group at 5/s, watch it, pause a queue, read the audit.
    """
    data = {"repaired": str(walk.repaired)}
    jobs = [
        {"name": "needs_repair", "data": data, "options": {"jobId": f"order-{n}"}}
        for n in range(JOBS)
    ]
    walk.http.post(f"/jobs/{QUEUE}", json=jobs).raise_for_status()
    wait_until(lambda: walk.stats()["dead-letter-queue"]["waiting"] == JOBS, 60, "all have died")
    wait_until(lambda: walk.http.get("/dead-letters/causes").json()[0]["total"] == JOBS, 30)
    walk.repaired.touch()
    said: dict[str, str] = {}
    lines = lines_of("An operator's day")
    terminal = Terminal(tmp_path, walk.url)

    for line in lines:
        said[line] = terminal.run(line)
    operation = terminal.run("echo $OP")
    wait_until(lambda: _operation(walk, operation)["state"] == "done", 60, "the operation ends")
    terminal.close()

    def told(*words: str) -> Any:
        line = next(line for line in lines if all(word in line for word in words))
        return json.loads(said[line])

    assert len(lines) >= 16
    assert [letter["source"] for letter in told("/dead-letters?limit")] == [QUEUE] * 5
    [cause] = told('/dead-letters/causes"')
    assert (cause["error_type"], cause["count"]) == ("PermissionError", JOBS)
    assert told("/explain")["failures"] == JOBS
    assert told("dry_run")["changed"] is False
    assert f"about {JOBS - 1}" in told("dry_run")["message"]  # order-7 is under way
    done = _operation(walk, operation)
    assert done["matched"] == JOBS - 1
    assert (done["rate_per_s"], done["canary"], done["failed"]) == (5.0, 5, 0)
    assert done["done"] == JOBS - 1
    began, ended = (datetime.fromisoformat(done[name]) for name in ("started_at", "finished_at"))
    assert (ended - began).total_seconds() > (JOBS - 1) / 5 - 1
    wait_until(lambda: walk.stats()[QUEUE]["completed"] == JOBS - 1, 30, "all but the edited one")
    assert told("$A/stats")[QUEUE]["paused"] in (True, False)
    assert walk.stats()[QUEUE]["paused"] is False
    exported = (tmp_path / f"dead-letters-{QUEUE}.csv").read_text()
    assert "order-8" in exported
    actions = [line["body"] for line in told("/audit")["items"]]
    for action in (
        "pause_queue", "resume_queue", "start_operation", "pause_operation", "resume_operation",
        "discard_letter", "undo_discard", "retry_letter",
    ):  # fmt: skip
        assert any(f'"{action}"' in body for body in actions), (action, actions)
    assert all('"api-key"' in body for body in actions if "pause_queue" in body)
    assert any("the supplier is back" in body for body in actions)


def _operation(walk: Walk, operation_id: str) -> dict[str, Any]:
    return dict(walk.http.get(f"/operations/{operation_id}").json())
