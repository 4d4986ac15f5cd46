"""Cron jobs: as workers tell them, as pages read them, in words."""

from datetime import UTC, datetime

import pytest
from arq import cron

from app.errors import SettingsError
from app.schedules import FIELDS, Schedule, Tick, heard, told
from app.settings import Settings
from workers.engine.schedules import Schedules, schedule_of
from workers.settings import cron_jobs


async def nightly(ctx):
    """Something a worker does by itself."""


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({}, "every minute"),
        ({"second": None}, "every second"),
        ({"second": set(range(0, 60, 10))}, "every 10 s"),
        ({"minute": 0}, "every hour"),
        ({"minute": set(range(0, 60, 5)), "second": 30}, "every 5 min at second 30"),
        ({"minute": {0, 15, 30, 45}}, "every 15 min"),
        ({"minute": {5, 25, 45}}, "every 20 min from minute 5"),
        ({"minute": {5, 35, 40}}, "every hour at minute 5, 35 and 40"),
        ({"minute": set(range(60))}, "every minute"),
        ({"hour": 3, "minute": 30}, "every day at 03:30"),
        ({"hour": {9, 17}, "minute": 0}, "every day at 09:00 and 17:00"),
        ({"hour": 3, "minute": 30, "second": 15}, "every day at 03:30:15"),
        ({"hour": 12}, "every minute, from 12 h"),
        ({"hour": set(range(8, 19)), "minute": 0}, "every hour, from 08 h to 18 h"),
        ({"weekday": {0, 1, 2, 3, 4}, "hour": 9, "minute": 0}, "Mon to Fri at 09:00"),
        ({"weekday": "sun", "hour": 4, "minute": 0}, "Sun at 04:00"),
        ({"weekday": "thurs", "minute": 0}, "every hour, Thu"),
        ({"day": 1, "hour": 0, "minute": 0}, "on day 1 of the month at 00:00"),
        ({"day": {1, 15}, "hour": 0, "minute": 0}, "on days 1 and 15 of the month at 00:00"),
        (
            {"month": {6, 7, 8}, "day": 1, "hour": 0, "minute": 5},
            "on day 1 of the month in June to August at 00:05",
        ),
        ({"minute": 30, "second": {0, 30}}, "every hour at minute 30, every 30 s"),
    ],
)
def test_a_schedule_is_told_in_words(times, words):
    """
    As arq is told, so people read it.
    """
    assert schedule_of(cron(nightly, **times), "UTC").words == words


def test_what_a_heartbeat_tells_is_what_is_heard():
    """
    Compact on the way, whole on both ends.
    """
    job = cron(nightly, name="nightly", hour=3, minute={0, 30}, unique=False, max_tries=5)
    job.next_run = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)

    (text,) = Schedules([job], "Europe/Berlin").describe().values()

    assert heard(text) == [schedule_of(job, "Europe/Berlin")]
    assert heard(text)[0].next_ms == 1_795_748_400_000
    assert len(text) < 140


def test_a_worker_without_cron_jobs_tells_nothing():
    """
    Its heartbeat does not grow.
    """
    assert Schedules(None).describe() == {"schedules": ""}
    assert heard("") == []


@pytest.mark.parametrize(
    "text",
    ["{", "3", '["x"]', '[{"n": 1}]', '[{"n": "a", "w": [], "x": "soon", "a": 1}]', "null", "[[[["],
)
def test_what_is_no_schedule_is_passed_over(text):
    """
    Anybody who may write to Redis may write this.
    """
    assert heard(text) == []


def test_values_out_of_range_do_not_reach_the_words():
    """
    The 99th weekday has no name.
    """
    found = heard('[{"n": "a", "w": {"weekday": [99, 0], "month": [0]}, "x": 0, "a": 1}]')

    assert found[0].times == {"weekday": (0,), "month": ()}
    assert found[0].words
    assert set(FIELDS) >= set(found[0].times)


def test_a_tick_survives_its_way():
    """
    With whatever the error said.
    """
    tick = Tick(job_id="nightly:1", outcome="dead", ended_ms=2, took_ms=3, error='"\n\u202e')

    assert Tick.from_json(tick.to_json()) == tick


def test_told_is_bounded():
    """
    A heartbeat is sent every five seconds.
    """
    assert len(heard(told(Schedule(name=f"s{n}") for n in range(1000)))) == 50


def test_cron_jobs_of_a_module_are_kept_by_the_worker_of_their_queue(tmp_path, monkeypatch):
    """
    As the README shows it; a list without a queue is refused with the remedy.
    """
    (tmp_path / "by_itself.py").write_text(
        "from arq import cron\n\n\nasync def nightly(ctx): ...\n\n\n"
        'cron_jobs = {"async-processing": [cron(nightly, name="nightly", hour=3, minute=30)]}\n'
    )
    (tmp_path / "no_queue.py").write_text("cron_jobs = []\n")
    monkeypatch.syspath_prepend(tmp_path)

    wanted = Settings(functions="by_itself")

    assert [job.name for job in cron_jobs(wanted, "async-processing")] == ["nightly"]
    assert cron_jobs(wanted, "long-running-jobs") == []
    with pytest.raises(SettingsError, match=r"no_queue is not a dict of queues .* for example"):
        cron_jobs(Settings(functions="no_queue"), "async-processing")
