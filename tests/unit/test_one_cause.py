"""Causes as a list: what is known of their past, and what is not."""

import dataclasses

import pandas as pd

from app import frames
from app.courses import Course
from app.pages import letters
from app.pages.address import Address
from app.pages.scene import Scene
from app.settings import Settings
from app.snapshot import Snapshot

NOW = pd.Timestamp("2026-11-23T12:00:00Z").as_unit("us")


def shown(found: letters.Found | None, *, is_past: bool = False) -> str:
    cause = {"fingerprint": "f", "state": "regressed", "error_type": "ValueError", "count": 3}
    snapshot = dataclasses.replace(
        Snapshot.empty(NOW), number=1, causes=frames.frame_of([cause], frames.CAUSE_COLUMNS)
    )
    address = Address("dead-letters")
    scene = Scene(
        snapshot=snapshot, address=address, settings=Settings(), found=found, is_past=is_past
    )
    return str(letters.PAGE.above(scene))


def test_a_cause_shows_its_deaths_hour_by_hour_and_the_odds_of_a_retry():
    """
    Both say in words what they are of.
    """
    course = Course(
        deaths=(0,) * 22 + (5, 2), retries=4, ended_well=3, odds=0.75, low=0.3, high=0.95
    )

    html = shown(letters.Found(courses={"f": course}))

    assert (
        'aria-label="Deaths of the last 24 clock hours: 7, at most 5 in one, 2 in the one that runs"'
        in html
    )
    assert (
        'title="3 of 4 retries ended well (95%: 30% to 95%), among the newest letters">75%' in html
    )
    assert "regressed" in html


def test_what_is_not_known_of_a_cause_is_unknown_with_its_reason():
    """
    Not counted, never retried, of the past, or not read yet: four different reasons, never 0.
    """
    html = shown(letters.Found(courses={"f": Course()}))
    assert '<svg class="spark"' not in html
    assert 'title="its deaths are not counted yet">–</span>' in html  # noqa: RUF001
    assert 'title="no retry of it has ended yet">–</span>' in html  # noqa: RUF001
    assert shown(None).count('title="it is not read yet, or cannot be"') == 2
    assert shown(None, is_past=True).count('title="not stored for a moment of the past"') == 2
