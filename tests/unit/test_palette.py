"""Colours, icons, words and number formats."""

import math

import pandas as pd
import pytest

from app import palette
from app.records import JobState, LetterState, Outcome

NOW = pd.Timestamp("2026-11-23T12:00:00Z")


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, WCAG 2.2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_state_has_a_look():
    """
    A new state without colour, icon and word does not pass.
    """
    assert set(palette.JOB_LOOK) == set(JobState)
    assert set(palette.OUTCOME_LOOK) == set(Outcome)
    assert set(palette.LETTER_LOOK) == set(LetterState)
    assert set(palette.VERDICT_LOOK) == set(palette.Verdict)
    assert all(look.word and look.icon for look in palette.JOB_LOOK.values())


def test_the_colours_are_those_of_the_design():
    """
    UI.md rule 8.
    """
    waiting = palette.JOB_LOOK[JobState.QUEUED]

    assert (waiting.colour("light"), waiting.colour("dark")) == ("#d97706", "#c9a13a")
    assert palette.JOB_LOOK[JobState.DEAD].light == "#ef4444"


@pytest.mark.parametrize(("theme", "paper"), [("light", "#ffffff"), ("dark", "#1a1917")])
def test_icons_and_lines_stand_out_from_the_paper(theme, paper):
    """
    3:1 for graphics (WCAG 1.4.11); orange on white is the one below it and always has a word.
    """
    weak = {
        look.word for look in palette.JOB_LOOK.values() if contrast(look.colour(theme), paper) < 3
    }

    assert weak <= {"retrying"}
    assert all(contrast(pair[theme == "dark"], paper) >= 3 for pair in palette.SERIES)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (12480.0, "12,480"), (math.nan, "–"), (None, "–")],  # noqa: RUF001
)
def test_counts_are_exact_and_unknown_is_not_zero(value, shown):
    """
    No rounding to thousands: a number on the page equals the one in Redis.
    """
    assert palette.count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (0.001, "<0.01"), (0.424, "0.42"), (0.5, "0.50"), (0.999, "1"), (6.04, "6"),
     (7.46, "7.5"), (9.97, "10"), (130.2, "130"),
     (math.nan, "–")],  # noqa: RUF001
)  # fmt: skip
def test_rates_have_the_digits_that_say_something(value, shown):
    """
    A small rate is not rounded to nothing.
    """
    assert palette.rate(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.0004, "1 ms"), (0.042, "42 ms"), (0.9999, "1 s"), (3.44, "3.4 s"),
     (9.96, "10 s"), (59.7, "1 m"), (125, "2 m 05 s"), (11_400, "3 h 10 m"),
     (353_000, "4 d 02 h"), (432_000, "5 d"), (10_800, "3 h"), (3_601, "1 h"), (math.nan, "–"), (-1, "0 s")],  # noqa: RUF001
)  # fmt: skip
def test_durations_show_their_two_largest_units(seconds, shown):
    """
    No ``60 s``, no ``0.0 s`` and no ``5 d 00 h``.
    """
    assert palette.duration(seconds) == shown


def test_an_age_of_nothing_is_unknown():
    """
    NaT is not 1970.
    """
    assert palette.age(pd.NaT, NOW) == "–"  # noqa: RUF001
    assert palette.age(NOW - pd.Timedelta(seconds=12.9), NOW) == "12 s ago"
    assert palette.age(NOW + pd.Timedelta(seconds=5), NOW) == "just now"


def test_sizes_are_binary():
    """
    1536 bytes are 1.5 KiB.
    """
    assert [palette.size(n) for n in (812, 1536, 3_565_158, None)] == [
        "812 B",
        "1.5 KiB",
        "3.4 MiB",
        "–",  # noqa: RUF001
    ]


@pytest.mark.parametrize(
    ("reason", "attempts", "words"),
    [
        ("attempts", 1, "its only attempt failed"),
        ("attempts", 3, "all 3 attempts failed"),
        ("attempts", 0, "no attempt was left"),
        ("unknown-function", 1, "no worker of its queue knows its function"),
        ("of its own", 2, "of its own"),
        ("", 2, palette.UNKNOWN),
    ],
)
def test_why_something_died_is_told_in_words(reason, attempts, words):
    """
    "attempts", of a job that had one, read like a contradiction.
    """
    assert palette.cause_of_death(reason, attempts) == words


@pytest.mark.parametrize(
    ("seconds", "duration", "span"),
    [(0.25, "250 ms", "250 ms"), (1, "1 s", "1 s"), (12.5, "12.5 s", "12 s"), (35.0525, "35.1 s", "35 s"),
     (60, "1 m", "1 min"), (90, "1 m 30 s", "1 m 30 s"), (3_600, "1 h", "60 min"), (5_400, "1 h 30 m", "90 min"),
     (86_400, "1 d", "24 h"), (604_800, "7 d", "7 d"), (7_776_000, "90 d", "90 d")],
)  # fmt: skip
def test_what_somebody_chose_is_told_as_chosen_and_a_stretch_in_one_unit(seconds, duration, span):
    """
    A rule fires for ``1 m``; a range is called ``60 min``, as on its button.
    """
    assert palette.plain_duration(seconds) == duration
    assert palette.span(seconds) == span
