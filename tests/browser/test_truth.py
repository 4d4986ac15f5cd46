"""Every number of the overview against what Redis says, while load runs: read from the page as a person does.

Truth is read with plain commands. A number that moves has to lie between two truths, and each has to become
Redis' own at one moment: one that is off by one never does.
"""

import json
import re
from typing import Any

import pytest
from redis import Redis as SyncRedis

from app import keys
from app.enqueue import JobRequest
from tests.browser.conftest import DENIED, House, Window, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#: nobody serves the first, the second is paused too, the third is worked on
IDLE, PAUSED, SERVED = "long-running-jobs", "event-driven-jobs", "async-processing"
GROUP = "event-processors"
#: what a page shows, by where it stands: the strip, each card, the rail, the causes
READ = """() => {
  const all = node => [...node.querySelectorAll("*")].flatMap(el => el.shadowRoot ? [el, ...all(el.shadowRoot)] : [el])
  const els = all(document.getElementById("page"))
  const found = {}
  const text = el => el?.textContent.trim()
  for (const el of els) {
    if (el.matches(".strip > a")) {
      found["strip " + el.dataset.key] = text(el.querySelector(".value"))
      found["sub " + el.dataset.key] = text(el.querySelector(".sub"))
    }
    if (el.matches(".card .counts > div")) found[el.closest(".card").dataset.key + " " + el.dataset.key] = text(el.querySelector("dd"))
    if (el.matches(".card .facts > div")) found[el.closest(".card").dataset.key + " " + el.dataset.key] = text(el.querySelector("dd"))
    if (el.matches(".rail a")) found["rail " + el.dataset.key] = text(el.querySelector(".n")) ?? "0"
    if (el.matches(".figures > div")) found["figure " + el.dataset.key] = text(el.querySelector("dd"))
  }
  const table = els.find(el => el.tagName === "TABLE" && text(el.querySelector("caption"))?.startsWith("Causes"))
  found.causes = [...(table?.querySelectorAll("tbody tr td:first-child") ?? [])].map(text).join(" ")
  return found
}"""


def plain(text: str) -> str:
    """A number without what makes it readable."""
    return text.replace(",", "").replace("≈ ", "")


class Truth:
    """What Redis says, command by command."""

    def __init__(self, house: House) -> None:
        self.redis: Any = house.queue
        self.streams: Any = SyncRedis.from_url(house.redis.database(1), decode_responses=True)
        self.queues, self.stream = house.settings.queue_names, house.settings.stream_name

    def now_ms(self) -> int:
        seconds, micros = self.redis.time()
        return int(seconds * 1000 + micros // 1000)

    def of_queue(self, queue: str) -> dict[str, int]:
        """A queue's states: waiting are due and nobody has them; who runs is set later by its lease."""
        pipe = self.redis.pipeline(transaction=True)
        pipe.zrange(queue, 0, -1, withscores=True)
        pipe.hkeys(keys.running(queue))
        pipe.zcard(keys.dead_open(queue))
        pipe.zcard(keys.dead_retrying(queue))
        held, running, dead, retrying = pipe.execute()
        now, running = self.now_ms(), set(running)
        due = [at for job, at in held if job not in running and at <= now]
        deferred = sum(1 for job, at in held if job not in running and at > now)
        return {"waiting": len(due), "running": len(running), "deferred": deferred, "dead": dead,
                "retrying": retrying, "oldest_ms": int(now - min(due)) if due else 0}  # fmt: skip

    def is_worked_off(self) -> bool:
        """Whether at one moment no job waits or runs, and every letter has been decided about."""
        of = self.of_queue(SERVED)
        letters = self.redis.zrange(keys.dead_open(SERVED), 0, -1)
        decided = [self.redis.hget(keys.dead_record(SERVED, one), "decision") for one in letters]
        return of["waiting"] == of["running"] == 0 and all(decided)

    def workers(self) -> list[dict[str, str]]:
        """The heartbeats there are."""
        found = (
            self.redis.hgetall(keys.worker(one)) for one in self.redis.zrange(keys.WORKERS, 0, -1)
        )
        return [one for one in found if one]

    def slots(self, queue: str) -> int:
        told = (one for one in self.workers() if one["role"] == "worker" and one["source"] == queue)
        return sum(int(one["slots"]) for one in told)

    def runs(self, queue: str, from_ms: float, to_ms: float) -> tuple[int, int]:
        """How many runs ended well, and how many did not, between two moments."""
        rows = self.redis.xrange(keys.runs(queue), int(from_ms), int(to_ms))
        ends = [json.loads(row["r"])["outcome"] for _, row in rows]
        return ends.count("complete"), ends.count("retry") + ends.count("dead")

    def lag(self) -> int:
        return int(sum(group["lag"] for group in self.streams.xinfo_groups(self.stream)))

    def causes(self) -> list[int]:
        """Letters that are open or being retried, by cause, most first."""
        counted: dict[str, int] = {}
        for queue in self.queues:
            for index in (keys.dead_open(queue), keys.dead_retrying(queue)):
                for letter in self.redis.zrange(index, 0, -1):
                    print_ = self.redis.hget(keys.dead_record(queue, letter), "fingerprint")
                    counted[print_] = counted.get(print_, 0) + 1
        return sorted(counted.values(), reverse=True)

    def numbers(self) -> dict[str, str]:
        """Everything the overview shows that is counted, as it shows it."""
        of = {queue: self.of_queue(queue) for queue in self.queues}
        added = {word: sum(one[word] for one in of.values()) for word in of[SERVED]}
        said: dict[str, Any] = {
            "strip Waiting": added["waiting"], "strip Running": added["running"],
            "strip Deferred": added["deferred"], "strip Dead": added["dead"], "strip Lag": self.lag(),
            "rail dead-letters": added["dead"], "rail workers": len(self.workers()),
            "causes": " ".join(map(str, self.causes())),
        }  # fmt: skip
        slots = {queue: self.slots(queue) for queue in self.queues}
        busy = {queue: min(one["running"], slots[queue]) for queue, one in of.items()}
        said["sub Running"] = f"{sum(busy.values())} of {sum(slots.values())} slots busy"
        said["sub Dead"] = f"{added['retrying']} retrying" if added["retrying"] else "open letters"
        for queue, one in of.items():
            said |= {
                f"{queue} queued": one["waiting"], f"{queue} running": one["running"],
                f"{queue} deferred": one["deferred"], f"{queue} dead": one["dead"],
                f"rail queue-{queue}": one["waiting"],
                f"{queue} slots busy": f"{busy[queue]} / {slots[queue]}" if slots[queue] else "no worker",
            }  # fmt: skip
        return {name: str(value) for name, value in said.items()}


@pytest.fixture(scope="module")
def truth(house: House) -> Truth:
    found = Truth(house)
    found.redis.sadd(keys.PAUSED_QUEUES, PAUSED)
    found.streams.xgroup_create(found.stream, GROUP, id="0", mkstream=True)
    return found


def work(house: House, turn: int) -> None:
    """Load of every kind: done, retried, dead of three causes, put off, unserved, paused, published."""
    failing = {"shouldFail": True, "duration": 15}
    house.enqueue(
        SERVED,
        *(JobRequest(name="data-sync", args=({"records": 2, "duration": 30},)) for _ in range(8)),
        *(JobRequest(name="generic", args=({**failing, "error": DENIED},), attempts=1) for _ in range(3)),
        JobRequest(name="generic", args=({**failing, "error": f"ValueError: row {turn % 2}"},), attempts=1),
        JobRequest(name="generic", args=({"duration": 2500},)),
        JobRequest(name="generic", args=({},), delay_s=3600),
    )  # fmt: skip
    house.enqueue(IDLE, *(JobRequest(name="bulk-operation", args=({},)) for _ in range(7)))
    house.enqueue(PAUSED, JobRequest(name="notification", args=({"userId": "u1"},)))


def test_every_number_of_the_overview_is_redis_own_while_load_runs(
    window: Window, house: House, truth: Truth
) -> None:
    page = window.open()
    page.get_by_label("Refresh the page").select_option("1")

    def shown() -> dict[str, str]:
        return {name: plain(text) for name, text in page.evaluate(READ).items()}

    wait_for(lambda: shown().get("strip Waiting") == "0", "a first sample")
    for turn in range(6):
        low = truth.numbers()
        work(house, turn)
        for number in range(5):
            truth.streams.xadd(
                truth.stream, {"type": "user.created", "data": "{}", "n": f"{turn}-{number}"}
            )
        seen, high = shown(), truth.numbers()
        for name in (f"{IDLE} queued", f"{PAUSED} queued", f"rail queue-{IDLE}", "strip Lag"):
            # these only grow here (a policy takes letters away), so that the truth after bounds what is shown
            assert int(seen[name]) <= int(high[name]), (name, turn)
        missing = set(high) - set(seen)
        assert missing == set(), "a number that is not on the page"
        for name in high:  # each becomes Redis' own while the load runs on
            wait_for(
                lambda name=name: shown()[name] == truth.numbers()[name], f"{name} in turn {turn}"
            )  # type: ignore[misc]
            assert int(low["strip Lag"]) <= int(shown()["strip Lag"])

    wait_for(truth.is_worked_off, "the load is worked off")
    wait_for(lambda: {n: t for n, t in shown().items() if n in truth.numbers()} == truth.numbers(),
             "all numbers at once")  # fmt: skip


def test_the_rates_and_ages_of_the_overview_are_redis_own(
    window: Window, house: House, truth: Truth
) -> None:
    """
    Done and failed a minute, of all and of each queue, from the runs of just the time the page names; how
    long the oldest waits, from its score.
    """
    page = window.open()
    page.get_by_label("Refresh the page").select_option("1")
    began_ms = truth.now_ms()
    work(house, 0)
    work(house, 1)
    wait_for(truth.is_worked_off, "the load is worked off")

    slack_s = 2.5  # a sample, a refresh, and the second the span is rounded to
    wrong: dict[str, object] = {}

    def agree() -> bool:
        wrong.clear()
        seen, now = page.evaluate(READ), truth.now_ms()
        told = re.search(r"of (\d+) s so far", seen["sub Done/min"])
        span_s = float(told[1]) if told else 60.0
        least = truth.runs(SERVED, now - (span_s - slack_s) * 1000, now - slack_s * 1000)
        most = truth.runs(SERVED, now - (span_s + slack_s) * 1000, now)
        for name, which in (("strip Done/min", 0), ("strip Failed/min", 1), (f"{SERVED} done/min", 0)):  # fmt: skip
            value = float(plain(seen[name])) * span_s / 60
            if not least[which] * 0.96 - 0.6 <= value <= most[which] * 1.04 + 0.6:
                wrong[name] = value, span_s, least[which], most[which]
        waits = truth.of_queue(IDLE)["oldest_ms"] / 1000
        for name in (f"{IDLE} oldest waiting", "sub Waiting"):
            if abs(seconds(seen[name]) - waits) > slack_s:
                wrong[name] = seen[name], waits
        return not wrong

    try:
        wait_for(agree, "rates and ages are Redis' own", 30)
    except AssertionError as late:
        raise AssertionError(wrong) from late
    complete, failed = truth.runs(SERVED, began_ms, truth.now_ms())
    assert complete >= 16
    assert failed >= 8


def seconds(text: str) -> float:
    """``2 m 05 s`` in seconds."""
    sizes = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(n) * sizes[unit] for n, unit in re.findall(r"([\d.]+) (ms|s|m|h)\b", text))


def test_the_headline_numbers_of_the_other_pages_are_redis_own(
    window: Window, house: House, truth: Truth
) -> None:
    """
    A queue's figures, the workers', how many letters there are, and what a group has before it.
    """
    work(house, 2)
    wait_for(truth.is_worked_off, "the load is worked off")
    slots = truth.slots(SERVED)
    totals = truth.redis.hgetall(keys.totals(SERVED))
    letters = truth.of_queue(SERVED)
    expected = {
        f"queue?name={SERVED}": {
            "figure Slots busy": f"0 of {slots}", "figure Workers": "1",
            "figure Open dead letters": str(letters["dead"]),
            "figure Completed": f"{totals['complete']} since ever",
        },
        f"queue?name={IDLE}": {"figure Workers": "0", "figure Open dead letters": "0"},
        "workers": {"figure Processes": str(len(truth.workers())), "figure Slots": f"{slots} for jobs",
                    "figure Busy": "0", "figure Utilisation": "0%"},
    }  # fmt: skip
    page = window.open()
    page.get_by_label("Refresh the page").select_option("1")
    for where, told in expected.items():
        window.go(where)

        def right(told: dict[str, str] = told) -> bool:
            seen = {name: plain(text) for name, text in page.evaluate(READ).items()}
            return {name: seen.get(name) for name in told} == told

        wait_for(right, f"{told} on {where}")

    window.go("dead-letters")
    every = letters["dead"] + letters["retrying"]
    page.get_by_text(re.compile(rf"^all {every} that are open or being retried")).wait_for()
    window.go("streams")
    row = page.get_by_role("table").filter(has_text=GROUP).locator("tbody tr").first
    length, lag = truth.streams.xlen(truth.stream), truth.lag()
    wait_for(lambda: plain(row.inner_text()).split()[2:3] == [str(length)], "the stream's length")
    assert str(lag) in plain(row.inner_text()).split()
