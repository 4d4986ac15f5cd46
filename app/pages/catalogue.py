"""The catalogue: which page is shown at which address."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from app.pages import (
    alarms,
    bygone,
    chronicle,
    configuration,
    jobs,
    letters,
    life,
    one_chart,
    one_job,
    one_letter,
    one_queue,
    overview,
    processes,
    streams,
    timetable,
    undertakings,
    wiretap,
)
from app.pages.scene import Page

PAGES: Final[Mapping[str, Page]] = {
    "queues": overview.PAGE,
    "queue": one_queue.PAGE,
    "jobs": replace(jobs.PAGE, past=bygone.jobs),
    "job": replace(one_job.PAGE, load=life.load_job, past=life.job, reads_past=True),
    "dead-letters": letters.PAGE,
    "dead-letter": replace(
        one_letter.PAGE, load=life.load_letter, past=life.letter, reads_past=True
    ),
    "streams": streams.PAGE,
    "pubsub": replace(
        wiretap.PAGE, past=bygone.present_only("Messages are heard as they are published.")
    ),
    "workers": processes.PAGE,
    "schedules": timetable.PAGE,
    "history": chronicle.PAGE,
    "chart": one_chart.PAGE,
    "operations": undertakings.PAGE,
    "alerts": alarms.PAGE,
    "settings": configuration.PAGE,
}

__all__ = ["PAGES"]
