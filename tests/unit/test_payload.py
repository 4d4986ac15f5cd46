"""The codec: what goes in comes out, what is hostile is refused with a reason."""

import contextlib
import copy
import math
import pickle
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadPayload, InvalidRequest, PayloadTooLarge
from app.payloads.codec import MAX_PAYLOAD_BYTES, TAG, Codec, RemoteError, dumps, loads, safe_str

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.uuids()
    | st.decimals(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text().filter(lambda k: k != TAG), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_values_survive_the_round_trip(value: Any):
    assert loads(dumps(value)) == value


@given(name=st.text(min_size=1), args=st.lists(VALUES, max_size=3), key=st.none() | st.binary())
def test_a_job_survives_the_round_trip_signed_or_not(name: str, args: list[Any], key: bytes | None):
    codec = Codec(key=key)

    raw = codec.encode_job(name, tuple(args), {"a": 1}, enqueued_ms=5, options={"cid": "c"})
    job = codec.decode_job(raw)

    assert (job.function, job.args, job.kwargs) == (name, tuple(args), {"a": 1})
    assert (job.enqueued_ms, job.options) == (5, {"cid": "c"})


@given(st.binary())
def test_any_bytes_are_a_payload_or_a_clear_refusal(raw: bytes):
    with contextlib.suppress(BadPayload):
        Codec().decode_job(raw)


@given(VALUES)
def test_json_of_the_wrong_shape_is_a_clear_refusal(value: Any):
    with pytest.raises(BadPayload):
        Codec().decode_job(b"j1:" + dumps({"f": 1, "a": value, "k": value, "et": None, "t": None}))


def test_types_json_lacks_come_back_as_they_were():
    values = [
        timedelta(seconds=1.5),
        {1, 2},
        datetime(2026, 1, 2, tzinfo=UTC),
        date(2026, 1, 2),
        UUID(int=5),
        Decimal("1.10"),
        b"\x00\xff",
    ]

    assert loads(dumps(values)) == values


def test_an_exception_travels_as_data():
    back = loads(dumps(ValueError("no")))

    assert isinstance(back, RemoteError)
    assert (back.type_name, back.message) == ("ValueError", "no")


@pytest.mark.parametrize("value", [math.nan, math.inf, object(), lambda: 1])
def test_what_json_cannot_hold_is_refused(value: object):
    with pytest.raises(InvalidRequest):
        dumps({"x": value})


def test_arguments_above_the_limit_are_refused_with_the_remedy():
    with pytest.raises(PayloadTooLarge) as caught:
        Codec().encode_job("f", ("x" * MAX_PAYLOAD_BYTES,), {}, enqueued_ms=1)

    assert "reference" in str(caught.value.hint)


def test_pickle_is_never_read_without_leave():
    raw = pickle.dumps({"t": None, "f": "f", "a": (), "k": {}, "et": 1})

    with pytest.raises(BadPayload, match="ARQSCOPE_ALLOW_PICKLE"):
        Codec().decode_job(raw)
    assert Codec(allow_pickle=True).decode_job(raw).pickled


def test_a_changed_or_unsigned_payload_is_refused_when_a_key_is_set():
    signed = Codec(key=b"k").encode({"f": "a"})
    changed = signed.replace(b'"a"', b'"b"')
    unsigned = Codec().encode({"f": "a"})

    for raw in (changed, unsigned, Codec(key=b"other").encode({"f": "a"})):
        with pytest.raises(BadPayload):
            Codec(key=b"k").decode(raw)


def test_a_reported_exception_can_be_copied():
    """A record that holds one is taken apart to be answered as JSON."""
    back = copy.deepcopy(RemoteError("ValueError", "no plan", "Traceback …"))

    assert (back.type_name, back.message, back.traceback) == (
        "ValueError",
        "no plan",
        "Traceback …",
    )
    assert str(back) == "ValueError: no plan"


def test_a_str_that_raises_cannot_hurt():
    class Nasty:
        def __str__(self) -> str:
            raise SystemExit

    assert "SystemExit" in safe_str(Nasty())
