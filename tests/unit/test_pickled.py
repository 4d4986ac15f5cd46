"""The inert reader of pickles: shows what they hold, executes none of it."""

import datetime
import decimal
import pickle
import subprocess
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadPayload
from app.payloads import pickled
from app.payloads.contents import PICKLED, arguments_of, function_of, outcome_of

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain, st.integers(0, 5))
def test_plain_values_come_back_as_they_were(value: Any, protocol: int) -> None:
    shown = pickled.shown(pickle.dumps(value, protocol))

    if protocol >= 3 or "b" not in repr(value):  # older protocols build bytes by a call
        assert shown == value


@pytest.mark.parametrize("protocol", range(6))
def test_what_would_be_built_is_named_instead(protocol: int) -> None:
    value = {
        "at": datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC),
        "price": decimal.Decimal("1.5"),
        "path": Path("data/x"),
        "many": deque([1, 2]),
        "ordered": OrderedDict(a=1),
        "items": {1, 2},
    }

    shown = pickled.shown(pickle.dumps(value, protocol))

    assert list(shown) == list(value)
    assert "datetime" in str(shown["at"])
    assert "1.5" in str(shown["price"])
    assert "deque" in str(shown["many"])


class Bomb:
    """Unpickling it runs a program."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["mkdir", str(self.canary)],)


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_executed(tmp_path: Path, protocol: int) -> None:
    job = {"t": None, "f": "evil", "a": (Bomb(tmp_path / "canary"),), "k": {}, "et": 5}

    told = arguments_of(pickle.dumps(job, protocol))

    assert (tmp_path / "canary").exists() is False
    if protocol >= 2:  # arq's are 4 or 5; the first two have no mark of a pickle
        assert (told.function, told.enqueued_ms, told.note) == ("evil", 5, PICKLED)
        assert "check_call" in str(told.args)


def test_bombs_of_references_and_depth_stay_small() -> None:
    value: Any = ["x"] * 10
    for _ in range(30):
        value = [value] * 10

    shown = pickled.shown(pickle.dumps(value))

    assert len(repr(shown)) < 2_000_000


def test_a_list_that_holds_itself_is_cut() -> None:
    value: list[Any] = [1]
    value.append(value)

    assert "…" in repr(pickled.shown(pickle.dumps(value)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_refused(raw: bytes) -> None:
    try:
        pickled.shown(b"\x80\x05" + raw)
    except BadPayload:
        return


@given(st.text(min_size=1, max_size=40))
def test_the_function_of_a_head_is_found_in_both_formats(name: str) -> None:
    job = {"t": None, "f": name, "a": ("x" * 9000,), "k": {}, "et": 5}
    raw = pickle.dumps(job)

    if len(name.encode("utf-8", "replace")) == len(name.encode("utf-8", "ignore")):
        assert function_of(raw[:500]) == name
    assert arguments_of(raw[:500], size_bytes=len(raw)).note.startswith(f"{len(raw):,} bytes")


def test_a_pickled_result_is_shown_with_a_note() -> None:
    result = {
        "t": 1,
        "f": "f",
        "a": (1,),
        "k": {"b": 2},
        "et": 1,
        "s": True,
        "r": {"n": 3},
        "q": "q",
    }

    told = outcome_of(pickle.dumps(result), None)

    assert (told["r"], told["a"], told["k"], told["note"]) == ({"n": 3}, (1,), {"b": 2}, PICKLED)
