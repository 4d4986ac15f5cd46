"""An audit line reads like a sentence, whatever it carries."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import deeds

JSON = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.lists(st.text(max_size=5))
)


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ({}, ""),
        (
            {"kind": "retry_letters", "matched": 16, "filter": "name=sync, errorType=ValueError",
             "rate": "10.0", "canary": 5, "reason": "fixed in 2.1", "operation": "op-1"},
            "retry letters: 16 matched, of name sync, error type ValueError, at most 10 a second, "
            "canary of 5, because: fixed in 2.1",
        ),
        ({"slots": 1}, "1 slot"),
        ({"slots": 0}, "0 slots"),
        ({"rate": "quick", "delay": "soon"}, "rate quick, delay soon"),
        ({"slots": 1200}, "1,200 slots"),
        ({"delay_s": "90.0"}, "by 1 m 30 s"),
        ({"delay": 0, "edited": True, "before": "ab", "after": "cd"}, "edited"),
        ({"status": "dead", "age": 86400}, "status dead, older than 1 d"),
        ({"note": "", "seconds": 3600}, "for 1 h"),
        ({"version": "2.1", "before": "2.0", "note": None}, "version 2.1, before 2.0"),
        ({"name": "ci", "role": "viewer", "expires_ms": 0}, "name ci, role viewer, never expires"),
        ({"expires_ms": 1_800_000_000_000}, "expires 2027-01-15 08:00 UTC"),
        ({"refused": "this server is read-only"}, "refused: this server is read-only"),
        ({"events": 2, "types": ["a.b", "c.d"]}, "2 events, types a.b, c.d"),
        ({"requestId": "r1", "cid": "c1"}, ""),
    ],
)  # fmt: skip
def test_the_detail_of_a_line_is_told_in_words(detail: dict[str, Any], words: str) -> None:
    """
    No names of fields, no signs; what says nothing to a person is left out.
    """
    assert deeds.in_words(detail) == words


def test_an_action_is_what_somebody_did_and_a_new_one_is_at_least_readable() -> None:
    """
    An application may audit acts of its own.
    """
    assert deeds.did("pause_queue") == "paused the queue"
    assert deeds.did("close_account") == "close account"


@given(
    st.dictionaries(
        st.text(max_size=12) | st.sampled_from(["filter", "rate", "age", "matched"]), JSON
    )
)
def test_whatever_an_audit_line_carries_can_be_told(detail: dict[str, Any]) -> None:
    """
    Handlers of an application write details of their own.
    """
    assert isinstance(deeds.in_words(detail), str)
