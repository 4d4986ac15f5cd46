"""Windows of time in addresses, and the way into the past and back."""

import re

import pandas as pd
import pytest

from app.pages import travel
from app.pages.address import Address, address_of
from app.pages.markup import link, tag
from app.pages.time_tools import ranges
from app.pages.window import RANGES, moment_of, moment_text, window_of

NOW_MS = 1_795_000_123_456.0
AT = "2026-11-25T23:40:00Z"


def test_a_range_ends_at_the_last_whole_step():
    """
    A step that is not over would be less than it becomes.
    """
    window = window_of(Address("queue", {"range": "24h"}), NOW_MS)

    assert window.end_ms <= NOW_MS < window.end_ms + 300_000
    assert window.end_ms % 300_000 == 0
    assert window.end_ms - window.start_ms == 86_400_000


@pytest.mark.parametrize("asked", ["", "eternity", "60m "])
def test_without_a_known_range_charts_are_live(asked):
    """
    What somebody typed is no reason to fail.
    """
    assert window_of(Address("queue", {"range": asked}), NOW_MS) is None


def test_the_past_has_no_live_charts():
    """
    An hour before the moment asked for instead.
    """
    window = window_of(Address("queue"), NOW_MS, then_ms=NOW_MS - 3_600_000)

    assert window.is_fixed
    assert window.end_ms <= NOW_MS - 3_600_000


def test_a_range_nobody_knows_is_the_usual_one_of_the_page_in_its_charts_and_its_choice():
    address = Address("history", {"range": "1h"})

    window = window_of(address, NOW_MS, usual="6h")

    assert window is not None
    assert window.name == "6h"
    chosen = ranges(address, ("60m", "6h"), usual="6h", live=False)
    assert re.findall(r'aria-current="true"[^>]*>([^<]*)<', chosen) == ["6 h"]


def test_a_window_of_ones_own_does_not_reach_beyond_now():
    """
    Its step is that of the shortest range that holds it.
    """
    query = {"start": moment_text(NOW_MS - 7_200_000), "end": moment_text(NOW_MS + 9e9)}
    window = window_of(Address("history", query), NOW_MS)

    assert window.step_s == 60
    assert window.end_ms <= NOW_MS + 60_000
    assert window.start_ms <= NOW_MS - 7_200_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-25T23:40:00Z", 1_795_650_000_000),
        ("2026-11-25 23:40", 1_795_650_000_000),
        ("2026-11-26T01:40:00+02:00", 1_795_650_000_000),
        ("1795650000000", 1_795_650_000_000),
        ("yesterday", None),
        ("0001-01-01", None),
        ("9" * 15, None),
        ("<script>", None),
        ("", None),
    ],
)
def test_moments_are_read_as_people_write_them(text, ms):
    """
    ISO 8601 with or without a zone, or epoch ms; nothing out of reach.
    """
    assert moment_of(text) == ms


def test_every_place_of_the_slider_leads_to_itself():
    """
    As many places as moments are stored: minutes, then hours, then days.
    """
    ago = travel.positions()
    last = len(ago) - 1

    assert ago == sorted(set(ago))
    assert (ago[1], ago[120], ago[-1]) == (60_000, 7_200_000, 90 * 86_400_000)
    assert [travel.place_of(one) for one in ago] == [last - n for n in range(len(ago))]
    assert travel.moment_at(str(last), NOW_MS) == ""
    assert travel.moment_at("not a place", NOW_MS) == ""


def test_links_and_forms_stay_in_the_moment_shown():
    """
    All but those that choose one.
    """
    there = Address("jobs", {"at": AT})
    html = tag(
        "div",
        link("queues", "a"), link("jobs?queue=q&state=running", "b"),
        link("queues", "now", data_now=True), link(f"jobs?at={AT}", "c"),
        tag("form", "x", data_go="jobs"), tag("form", "y", data_intent="confirm"),
    )  # fmt: skip

    kept = travel.kept(html, there)

    quoted = "2026-11-25T23%3A40%3A00Z"
    assert re.findall('href="([^"]*)"', kept) == [
        f"queues?at={quoted}",
        f"jobs?queue=q&amp;state=running&amp;at={quoted}",
        "queues",
        f"jobs?at={AT}",
    ]
    assert kept.count('name="at"') == 1
    assert travel.kept(html, Address("jobs")) == html


def test_a_moment_typed_cannot_leave_the_attribute():
    """
    Only what is a moment reaches a link; the banner shows the rest as text.
    """
    evil = address_of("queues", '?at="><script>alert(1)</script>')

    assert travel.kept(link("queues", "a"), evil) == link("queues", "a")
    assert "<script>" not in travel.banner(evil, None, "")


def test_the_banner_says_which_moment_it_is():
    """
    The one stored, not the one asked for.
    """
    there = Address("queues", {"at": AT})

    said = travel.banner(there, pd.Timestamp("2026-11-25T23:39:58Z"), "")

    assert "As of 2026-11-25 23:39:58 UTC, not live." in said
    assert "Back to now" in said
    assert "Nothing to show as of" in travel.banner(there, None, "no moment there")


def test_every_range_has_few_enough_points():
    """
    What a chart can draw and one round trip can read.
    """
    assert max(one.span_s / one.step_s for one in RANGES.values()) <= 400
