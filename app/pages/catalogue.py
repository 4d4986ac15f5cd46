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
    "job": replace(one_job.PAGE, past=bygone.present_only("A job is shown as it is.")),
    "dead-letters": letters.PAGE,
    "dead-letter": replace(
        one_letter.PAGE, past=bygone.present_only("A dead letter is shown as it is.")
    ),
    "streams": streams.PAGE,
    "pubsub": replace(
        wiretap.PAGE, past=bygone.present_only("Messages are heard as they are published.")
    ),
    "workers": processes.PAGE,
    "schedules": timetable.PAGE,
    "history": chronicle.PAGE,
    "chart": one_chart.PAGE,
    "operations": replace(
        undertakings.PAGE, past=bygone.present_only("Operations are listed as they are.")
    ),
    "alerts": replace(alarms.PAGE, past=bygone.present_only("Alerts are listed as they are.")),
    "settings": replace(
        configuration.PAGE, past=bygone.present_only("Settings are shown as they are.")
    ),
}

__all__ = ["PAGES"]
