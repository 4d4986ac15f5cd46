"""Row S5 of FAULTS.md: hostile text in everything a page shows, looked at with a real browser."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis as redis_sync

from app import keys
from app.alerts import Alert, AlertState
from app.pages.address import PLACES, Address, href
from app.records import DeadLetter, JobRun, LetterState, Outcome, WorkerInfo
from app.schedules import Schedule, Tick, told
from tests.chromium import chromium, driver
from tests.conftest import ROOT, start_redis, wait_until
from tests.faults.conftest import Row
from tests.faults.rig import sized
from tests.serving import RunningServer, start_server, stop

pytestmark = pytest.mark.browser

CORPUS = [
    "<img src=x onerror=window.__xss=1>",
    "<svg onload=window.__xss=2>",
    "</script><script>window.__xss=3</script>",
    "[click](javascript:window.__xss=4)",
    "<a href=javascript:window.__xss=5>x</a>",
    '" onmouseover="window.__xss=6" x="',
    "' autofocus onfocus='window.__xss=7",
    "<iframe srcdoc='<script>parent.__xss=8</script>'>",
    "{{constructor.constructor('window.__xss=9')()}}",
    "<details open ontoggle=window.__xss=10>",
    "\u202e<b onclick=window.__xss=11>\u2028\u0000",
    "<style>@import 'http://evil.example/x.css'</style>",
]


#: pages that show what comes while they are open, or what was told of the past
HEARD = {name: PLACES[name] for name in ("schedules", "history", "pubsub", "streams", "workers")}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    redis = start_redis(tmp_path / "redis")
    command = [
        sys.executable,
        "-m",
        "panel",
        "serve",
        str(ROOT / "app/dashboard"),
        "--port",
        "{port}",
    ]
    made = start_server(redis, tmp_path, command=command)
    yield made
    stop(made)
    redis.stop()


def _fill(server: RunningServer) -> None:
    """Put the corpus wherever something of a job, worker, event or letter is kept."""
    now = int(time.time() * 1000)
    queue_name = "async-processing"
    with redis_sync.Redis.from_url(server.redis.database(2), decode_responses=True) as queue:
        for n, text in enumerate(CORPUS):
            letter = DeadLetter(
                id=text if n % 2 else f"l{n}", kind="job", source=queue_name, name=text, state=LetterState.NEW,
                reason="attempts", error_type=text[:60], error=text, traceback=f"Traceback\n{text}",
                fingerprint=f"f{n}", worker=text, decision=text, decision_reason=text, actor=text,
                died_ms=now, enqueued_ms=now,
            )  # fmt: skip
            queue.hset(keys.dead_record(queue_name, letter.id), mapping=letter.to_fields())
            queue.zadd(keys.dead_open(queue_name), {letter.id: now})
            queue.hincrby(keys.totals(queue_name), "dead", 1)
            run = JobRun(
                job_id=text, queue=queue_name, function=text, outcome=Outcome.COMPLETE, attempt=1,
                worker=text, enqueued_ms=now, due_ms=now, started_ms=now, finished_ms=now, error=text,
            )  # fmt: skip
            queue.xadd(keys.runs(queue_name), {"r": run.to_json()})
            queue.hset(keys.running(queue_name), text, f"{now}:{now}:1:{text}")
            worker = WorkerInfo(
                id=f"w{n}", role="worker", host=text, pid=n, source=queue_name, version=text, since_ms=now,
                beat_ms=now + 600_000, trouble=text, state="degraded", functions=text,
                schedules=told([Schedule(name=text, zone=text, times={"minute": (n,)})]),
                jobs=json.dumps([{"id": text, "function": text, "started_ms": now, "attempt": 1}]),
            )  # fmt: skip
            queue.hset(keys.worker(worker.id), mapping=worker.to_fields())
            queue.zadd(keys.WORKERS, {worker.id: now})
            tick = Tick(job_id=text, outcome="dead", ended_ms=now, took_ms=1, error=text)
            queue.hset(keys.ticks(queue_name), text, tick.to_json())
            mark = {"kind": text, "source": "", "version": text, "note": text, "actor": text}
            queue.zadd(keys.MARKS, {json.dumps(mark): now - n})
            queue.sadd(keys.QUEUES, text)
    with redis_sync.Redis.from_url(server.redis.database(1), decode_responses=True) as streams:
        for text in CORPUS:
            streams.xadd("pyairtable-events", {"type": text, text: text, "data": text})
            fields = {
                "id": "1-1",
                "type": text,
                "handlers": text,
                "outcome": text,
                "ms": 1,
                "correlationId": text,
            }
            streams.xadd(keys.recent_events("pyairtable-events"), fields)  # type: ignore[arg-type]


def _say(server: RunningServer) -> None:
    """Put the corpus where operators write: notes, reasons, versions, alerts; the audit keeps it all."""
    with server.client() as client:
        for n, text in enumerate(CORPUS):
            note = text.replace("\0", "")
            client.post("/deploys", json={"version": note, "note": note})
            client.post(f"/dead-letters/causes/f{n}", json={"owner": note, "note": note})
            wanted = {"kind": "retry_letters", "source": "async-processing", "reason": note}
            client.post("/operations", json={**wanted, "filter": {"text": note}})
    now = int(time.time() * 1000)
    with redis_sync.Redis.from_url(server.redis.database(0), decode_responses=True) as cache:
        for n, text in enumerate(CORPUS):
            alert = Alert(
                id=f"rule-{n:x}", kind="rule", state=AlertState.FIRING, severity=text, title=text,
                detail=text, source=text, name=text, since_ms=now, last_ms=now, changed_ms=now,
                actor=text, note=text, delivery=text,
            )  # fmt: skip
            fields = {name: str(value) for name, value in asdict(alert).items()}
            cache.hset(keys.alert(alert.id), mapping=fields)  # type: ignore[arg-type]
            cache.zadd(keys.ALERTS, {alert.id: now})


def _views() -> list[str]:
    """Every page with the things it opens; at full size also with hostile text in each parameter."""
    first, second = CORPUS[0], CORPUS[1]
    opened = {
        "queue": href("queue", name="async-processing"),
        "job": href("job", queue="async-processing", id=first),
        "dead-letter": href("dead-letter", source="async-processing", id="l0", whole="1"),
        "dead-letters": href("dead-letters", cause="f1"),
        "streams": href("streams", stream="pyairtable-events", tail="1"),
        "chart": href("chart", chart="throughput", name="async-processing"),
    }
    hostile = [
        Address(page, dict.fromkeys(place.takes, first)).href for page, place in PLACES.items()
    ]
    more = [*PLACES, *hostile, href("dead-letter", source="async-processing", id=second)]
    return [*(opened.get(page, hostile[n]) for n, page in enumerate(PLACES)), *sized(more, [])]


#: text that became an element or an attribute that runs
_INJECTED = """() => { const seen = []; const walk = (root) => { for (const e of root.querySelectorAll('*')) {
  for (const a of e.attributes) if (a.name.startsWith('on') && a.value.includes('__xss')) seen.push(e.outerHTML);
  if (e.tagName === 'A' && !['http:', 'https:', ''].includes(e.protocol)) seen.push(e.outerHTML);
  if (e.shadowRoot) walk(e.shadowRoot) } }; walk(document); return seen }"""


@pytest.mark.row("S5")
def test_hostile_text_is_text_in_every_view(server: RunningServer, row: Row) -> None:
    """
    Every page is opened; what shows something is hovered over and pressed, toasts included.
    """
    _fill(server)
    with server.client() as client:
        wait_until(lambda: "onerror" in client.get("/frames/dead_letters.json").text, 20)
    _say(server)
    complaints: list[str] = []
    requests: list[str] = []
    views = _views()
    shown = pressed = fired = 0
    injected: list[str] = []
    with chromium() as browser:
        page = browser.new_page(user_agent=f"Mozilla {CORPUS[0]}")
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("request", lambda r: requests.append(r.url))
        page.on("dialog", lambda d: d.dismiss())
        for view in views:
            page.goto(f"{server.url}/admin/{view}")
            page.locator("h1, button, [role=tab]").first.wait_for(timeout=30_000, state="attached")
            with contextlib.suppress(driver().TimeoutError):  # a page may have none of it
                page.get_by_text("__xss").first.wait_for(timeout=1_500, state="attached")
            shown += page.get_by_text("__xss").count() > 0
            pressed += _press(page, sized(12, 2))
            page.mouse.move(400, 400)
            fired += bool(page.evaluate("window.__xss || 0"))
            injected += page.evaluate(_INJECTED)
    foreign = [url for url in requests if not url.startswith((server.url, "data:", "blob:"))]
    policy = [text for text in complaints if "Content Security Policy" in text]

    row.figure(texts=len(CORPUS), views=len(views), shown=shown, pressed=pressed, executed=fired,
               injected=len(injected), foreign_requests=len(foreign), policy_reports=len(policy))  # fmt: skip
    assert (fired, injected, foreign, policy) == (0, [], [], [])
    assert shown > len(PLACES) / 2
    assert pressed > 5


def _press(page: Any, most: int) -> int:
    """Hover over and press what can be pressed; return how much."""
    pressed = 0
    for control in page.locator("button:visible, [role=tab]:visible, summary:visible").all()[:most]:
        try:
            control.hover(timeout=1_000)
            control.click(timeout=1_000)
            pressed += 1
        except driver().Error:  # gone, or covered by what was just opened
            page.keyboard.press("Escape")
    return pressed


@pytest.mark.row("S5")
def test_what_is_heard_and_told_meanwhile_is_text(server: RunningServer, row: Row) -> None:
    """
    Within one session: schedules, marks, messages as they are published; addresses that change.
    """
    _fill(server)
    with server.client() as client:
        wait_until(lambda: "onerror" in client.get("/frames/workers.json").text, 20)
    complaints: list[str] = []
    requests: list[str] = []
    shown: dict[str, int] = {}
    fired: list[object] = []
    injected: list[str] = []
    with (
        chromium() as browser,
        redis_sync.Redis.from_url(server.redis.database(0), decode_responses=True) as cache,
    ):
        page = browser.new_page()
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("request", lambda r: requests.append(r.url))
        page.goto(f"{server.url}/admin/queues")
        page.wait_for_function("!document.getElementById('first')", timeout=30_000)
        for number, (name, place) in enumerate(HEARD.items()):
            text = CORPUS[number % len(CORPUS)]
            asked = [(), (*place.takes, "at") if number % 2 else place.takes]
            for parameters in asked:
                query = urlencode(dict.fromkeys(parameters, text))
                page.evaluate(
                    "where => { history.pushState({}, '', where);"
                    " dispatchEvent(new PopStateEvent('popstate')) }",
                    f"{name}?{query}",
                )
                page.locator(f'.frame[data-page="{name}"]').wait_for(timeout=20_000)
                if name == "pubsub" and not parameters:
                    page.get_by_text("since somebody looks").wait_for(timeout=20_000)
                    for one in CORPUS:
                        cache.publish(f"user:{one}", one)
                    page.get_by_text("onerror").first.wait_for(timeout=20_000, state="attached")
                page.get_by_text("Reading …", exact=True).first.wait_for(
                    timeout=20_000, state="detached"
                )
                for opened in page.locator("button[data-opens]:visible").all()[:3]:
                    with contextlib.suppress(driver().Error):  # a refresh took the row away
                        opened.dispatch_event("click", timeout=1_000)
                shown[name] = max(shown.get(name, 0), page.get_by_text("__xss").count())
                fired.append(page.evaluate("window.__xss || 0"))
                injected += page.evaluate(_INJECTED)
    foreign = [url for url in requests if not url.startswith((server.url, "data:", "blob:"))]
    policy = [text for text in complaints if "Content Security Policy" in text]

    row.figure(pages=len(shown), with_text=sum(1 for n in shown.values() if n), executed=sum(map(bool, fired)),
               injected=len(injected), foreign_requests=len(foreign), policy_reports=len(policy))  # fmt: skip
    assert (set(fired), injected, foreign, policy) == ({0}, [], [], [])
    assert all(shown.values()), shown
