"""Causes as a list: what is known of their past, and what is not."""

import dataclasses
import re

import pandas as pd

from app import frames
from app.courses import Course
from app.letters.filters import LetterFilter
from app.letters.tallies import PERIODS, Tally
from app.pages import bulk, letters, sieve
from app.pages.address import Address
from app.pages.dialogs import Asked, dialog
from app.pages.scene import Scene
from app.settings import Settings
from app.snapshot import Snapshot

NOW = pd.Timestamp("2026-11-23T12:00:00Z").as_unit("us")
NOW_MS = NOW.timestamp() * 1000


def shown(found: letters.Found | None, *, is_past: bool = False, **query: str) -> str:
    cause = {"fingerprint": "f", "state": "regressed", "error_type": "ValueError", "count": 3}
    snapshot = dataclasses.replace(
        Snapshot.empty(NOW), number=1, causes=frames.frame_of([cause], frames.CAUSE_COLUMNS)
    )
    address = Address("dead-letters", query)
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


def test_every_number_of_the_second_view_leads_to_the_letters_it_counts():
    """
    Exact, estimated, at least, none and unknown: each is told apart, and links to the same period.
    """
    told = (
        Tally(period="1h", low=2, high=10, likely=8.0, note="2 to 10: counted by the hour"),
        Tally(period="3h", low=12, high=12, likely=12.0),
        Tally(period="24h", low=0, high=0, likely=0.0),
        Tally(period="3d", low=12, likely=12.0, note="nobody counts"),
        Tally(period="7d", note="forgotten"),
    )

    html = shown(letters.Found(tallies={"f": told}), view="periods")

    cells = re.findall(r'<td class="num heat"><a ([^>]*)>([^<]*)</a>', html)
    assert [text for _, text in cells] == ["≈ 8", "12", "0", "≥ 12", "–"]  # noqa: RUF001
    for (attributes, _), period in zip(cells, PERIODS, strict=True):
        assert f'href="dead-letters?cause=f&amp;died={period}"' in attributes
    assert 'title="2 to 10: counted by the hour"' in cells[0][0]
    assert 'title="not known: forgotten"' in cells[4][0]


def test_the_second_view_knows_no_zero_before_it_is_read():
    """Of the past, not read, or not counted: a dash five times, each with its reason."""
    for found, more, why in (
        (None, {}, "it is not read yet"),
        (None, {"is_past": True}, "not stored for a moment of the past"),
        (letters.Found(tallies={}), {}, "its deaths are not counted yet"),
    ):
        html = shown(found, view="periods", **more)
        assert html.count(f'title="not known: {why}') == 5
        assert not re.search(r'<td class="num heat"><a [^>]*>0</a>', html)


def test_letters_can_be_those_that_died_lately():
    """A letter older than the period asked for is left out."""
    frame = frames.frame_of(
        [{"id": f"j{h}", "state": "new", "died": (NOW.timestamp() - h * 3600) * 1000} for h in (0.5, 2, 30)],
        frames.DEAD_LETTER_COLUMNS,
    )  # fmt: skip

    def found(period: str) -> list[str]:
        address = Address("dead-letters", {"died": period})
        return sieve.matching(frame, address, NOW)["id"].to_list()

    assert [len(found(period)) for period in ("1h", "3h", "24h", "3d", "nonsense")] == [
        1,
        2,
        2,
        3,
        3,
    ]


def letters_page(role_refused: str = "", **query: str) -> str:
    """The page of two letters of two queues, as somebody sees it who may act."""
    rows = [
        {"id": f"j{n}", "state": "new", "source": source, "name": "sync", "fingerprint": "f", "died": NOW_MS}
        for n, source in enumerate(("async-processing", "long-running-jobs"))
    ]  # fmt: skip
    cause = {"fingerprint": "f", "state": "new", "error_type": "E", "count": 2, "owner": "<b>ann",
             "note": "n" * 1_990 + "<i>the end"}  # fmt: skip
    snapshot = dataclasses.replace(
        Snapshot.empty(NOW), number=1, causes=frames.frame_of([cause], frames.CAUSE_COLUMNS),
        dead_letters=frames.frame_of(rows, frames.DEAD_LETTER_COLUMNS),
    )  # fmt: skip
    scene = Scene(snapshot=snapshot, address=Address("dead-letters", query), settings=Settings(),
                  refusal=role_refused)  # fmt: skip
    asked = Asked.of({"what": "cause-note", "cause": "f"}, scene)
    return str(letters.PAGE.above(scene)) + ("" if asked is None else str(dialog(asked, scene)))


def test_all_that_a_filter_lets_through_can_be_acted_on_and_exported():
    """
    The question carries every condition shown; a file is of one queue, and without one chosen that is said.
    """
    plain = letters_page()
    narrowed = letters_page(source="async-processing", function="sync", died="3h", cause="f")
    viewer = letters_page("for operators", source="async-processing")

    assert "one queue or stream is exported at a time" in plain
    assert "Archive all" not in plain
    conditions = 'data-cause="f" data-source="async-processing" data-function="sync" data-died="3h"'
    for what in ("retry-group", "discard-group", "archive-group"):
        assert f'data-what="{what}" {conditions}' in narrowed
    (address,) = re.findall(r'href="(\.\./dead-letters/[^"]*)"', narrowed)
    assert address == ("../dead-letters/async-processing?format=csv&amp;state=open&amp;name=sync"
                       "&amp;fingerprint=f&amp;since=2026-11-23T09%3A00Z")  # fmt: skip
    assert "data-intent" not in viewer
    assert "../dead-letters/async-processing?" in viewer


def test_a_group_asked_about_within_a_period_means_the_moment_it_was_asked():
    """The period becomes a time the operation keeps: it does not move on while it works."""
    scene = Scene(snapshot=dataclasses.replace(Snapshot.empty(NOW), number=1),
                  address=Address("dead-letters"), settings=Settings())  # fmt: skip

    asked = Asked.of({"what": "retry-group", "source": "q", "died": "24h"}, scene)

    assert asked is not None
    assert bulk.filter_of(asked.data) == {"since": "2026-11-22T12:00:00Z"}
    assert LetterFilter.parse(bulk.filter_of(asked.data)).since_ms == int(NOW_MS) - 86_400_000


def test_owner_and_note_of_a_cause_are_shown_whole_where_they_are_edited():
    """What is cut here would be lost by saving; nothing in it is markup."""
    html = letters_page()

    assert 'value="&lt;b&gt;ann"' in html
    assert "n" * 1_990 + "&lt;i&gt;the end</textarea>" in html
