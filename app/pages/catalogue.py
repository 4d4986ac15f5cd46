"""The catalogue: which page is shown at which address."""

from collections.abc import Mapping
from typing import Final

from app.pages import (
    alarms,
    configuration,
    jobs,
    letters,
    one_job,
    one_letter,
    one_queue,
    overview,
    processes,
    streams,
    undertakings,
)
from app.pages.scene import Page

PAGES: Final[Mapping[str, Page]] = {
    "queues": overview.PAGE,
    "queue": one_queue.PAGE,
    "jobs": jobs.PAGE,
    "job": one_job.PAGE,
    "dead-letters": letters.PAGE,
    "dead-letter": one_letter.PAGE,
    "streams": streams.PAGE,
    "workers": processes.PAGE,
    "operations": undertakings.PAGE,
    "alerts": alarms.PAGE,
    "settings": configuration.PAGE,
}

__all__ = ["PAGES"]
