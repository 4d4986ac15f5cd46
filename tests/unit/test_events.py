"""The event record: what decodes, what is malformed, what is refused before it is sent."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRecord, InvalidRequest, PayloadTooLarge
from app.streams.events import Event, NewEvent, decode_data, encode_data

plain_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=20,
)


def entry(**fields: str) -> dict[str, str]:
    return {"type": "user.created", "data": "{}", **fields}


@given(data=json_values, user_id=plain_text, workspace_id=plain_text)
def test_an_event_survives_the_wire(data, user_id, workspace_id):
    event = Event(
        id="1-0", type="user.created", data=data, user_id=user_id, workspace_id=workspace_id
    )

    assert Event.from_entry("1-0", event.to_fields()) == event


def test_optional_fields_may_be_missing():
    event = Event.from_entry("7-1", entry())

    assert (event.user_id, event.partition, event.trace_id) == ("", "7-1", "7-1")


def test_a_redriven_event_keeps_the_identity_of_its_letter():
    event = Event.from_entry("9-0", entry(redrivenFrom="7-1"))

    assert event.identity == "7-1"


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "user.created"},
        {"data": "{}"},
        {"x": "y"},
        entry(data=""),
        entry(data="{"),
        entry(data="NaN"),
        entry(data='{"a":Infinity}'),
        entry(data='{"a":1,"a":2}'),
        entry(data='"\\ud800"'),
        entry(data="\udcff"),
        entry(data="9" * 5000),
        entry(data="[" * 100_000),
        entry(data="[" * 70 + "]" * 70),
        entry(data='"' + "x" * 300_000 + '"'),
        entry(data='"' + "x" * 64_000_000 + '"'),
        entry(type="User Created"),
        entry(type="user"),
        entry(type="a." * 100 + "b"),
        entry(userId="u" * 1000),
        entry(userId="\udcff"),
        entry(redrivenFrom="nonsense"),
        entry(**{f"f{n}": "" for n in range(10_000)}),
    ],
    ids=lambda fields: "-".join(f"{k}={v[:12]}" for k, v in list(fields.items())[-2:]),
)
def test_a_malformed_entry_is_refused_at_once(fields):
    began = time.thread_time()

    with pytest.raises(BadRecord) as refused:
        Event.from_entry("1-0", fields)

    assert time.thread_time() - began < 0.25
    assert json.dumps(str(refused.value)).isascii()


def test_a_value_of_data_that_is_no_object_is_the_default():
    assert Event.from_entry("1-0", entry(data="[1]")).value("x", "none") == "none"


@pytest.mark.parametrize(
    "event_type", ["", "user", "User.created", "user.", "u.x\n", 5, "a.b" * 99]
)
def test_a_type_that_breaks_the_pattern_is_refused_with_a_hint(event_type):
    with pytest.raises(InvalidRequest) as refused:
        NewEvent(type=event_type)

    assert (refused.value.field, "user.created" in (refused.value.hint or "")) == ("type", True)


def test_data_over_256_kb_is_too_large():
    with pytest.raises(PayloadTooLarge):
        encode_data("ü" * 140_000)


@pytest.mark.parametrize("data", [float("nan"), object(), "\ud800", {1, 2}])
def test_data_that_is_not_json_is_refused(data):
    with pytest.raises(InvalidRequest) as refused:
        encode_data(data)

    assert refused.value.field == "data"


def test_data_of_exactly_the_limit_is_read_back():
    text = encode_data("x" * (262_144 - 2))

    assert decode_data(text) == "x" * (262_144 - 2)
