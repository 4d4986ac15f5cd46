"""Filters of dead letters, what leaves in an export, and files of letters: the pure parts."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRecord, InvalidRequest
from app.exports.letters import safe_cell
from app.letters.filters import LetterFilter, age_s, moment_ms
from app.letters.spill import Line, append, line_of, read_lines
from app.operations import parse_rate
from app.payloads.redaction import MASK, redacted, redacted_text

TEXTS = st.text(max_size=50)


def test_a_filter_is_stored_as_it_was_read():
    raw = {
        "name": "sync",
        "text": "TENANT",
        "state": "discarded",
        "since": "2026-11-23T12:00Z",
        "until": "1795440000000",
        "older_than": "2h",
    }

    wanted = LetterFilter.parse(raw)

    assert wanted.to_fields() == {
        "name": "sync",
        "text": "tenant",
        "state": "discarded",
        "since": "1795435200000",
        "until": "1795440000000",
        "older_than": "7200s",
    }
    assert LetterFilter.parse(wanted.to_fields()) == wanted


def test_an_age_counts_from_when_the_operation_was_asked_for():
    wanted = LetterFilter.parse({"older_than": "10s", "until": "5000"})

    assert wanted.bounds(100_000) == ("0", "5000")
    assert wanted.bounds(12_000) == ("0", "2000")


@pytest.mark.parametrize("text", ["yesterday", "2h ago", "-1h", "nan", "1e9", "1 week"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(InvalidRequest, match="older_than"):
        age_s("older_than", text)


@pytest.mark.parametrize(
    ("text", "per_s"), [("5/s", 5), ("300/min", 5), ("3600/h", 1), ("2.5", 2.5), ("", None)]
)
def test_rates_are_read(text, per_s):
    assert parse_rate(text) == per_s


@pytest.mark.parametrize("text", ["fast", "5/year", "/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(InvalidRequest, match="rate"):
        parse_rate(text)


def test_a_time_without_zone_is_utc():
    assert moment_ms("since", "1970-01-01T00:00:01") == 1000
    assert moment_ms("since", "") is None


@given(st.sampled_from("=+-@\t\r"), TEXTS)
def test_no_cell_is_a_formula(first, rest):
    assert safe_cell(first + rest)[0] == "'"


@pytest.mark.parametrize(
    "name", ["password", "DB_PASSWORD", "apiKey", "api-key", "access_token", "Authorization", "pin"]
)
def test_values_of_secret_names_are_masked_however_deep(name):
    assert redacted({"a": [{name: "hush"}]}) == {"a": [{name: MASK}]}


def test_plain_names_and_empty_secrets_stay():
    kept = {"tenant": 42, "spinner": "x", "passenger": "y", "password": ""}

    assert redacted(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hush-hush-hush",
        "redis://:hush@host:6379",
        "https://user:hush@host/",
        "token=hush&x=1",
        '{"password": "hush"}',
    ],
)
def test_credentials_in_a_text_are_masked(text):
    shown = redacted_text(text)

    assert "hush" not in shown
    assert MASK in shown


@settings(max_examples=10)
@given(st.dictionaries(TEXTS, TEXTS, max_size=5), st.none() | st.binary(max_size=50), TEXTS)
def test_a_line_survives_the_file(tmp_path_factory, record, payload, letter_id):
    file = tmp_path_factory.mktemp("lines") / "x.jsonl"
    line = Line(source="q", kind="job", id=letter_id, score="12", record=record, payload=payload)

    append(file, [line_of(line), line_of(line)])

    assert list(read_lines(file)) == [line, line]


def test_every_altered_byte_of_a_line_is_noticed(tmp_path: Path):
    line = Line(source="q", kind="job", id="j1", score="1", record={"a": "b"}, payload=b"x")
    raw = line_of(line)
    file = tmp_path / "x.jsonl"
    for at in range(len(raw) - 1):
        changed = raw[:at] + (b"0" if raw[at : at + 1] != b"0" else b"z") + raw[at + 1 :]
        file.write_bytes(changed)
        try:
            found = list(read_lines(file))
        except BadRecord:
            continue
        assert found == [line], changed
    assert json.loads(raw)["letter"]["id"] == "j1"
