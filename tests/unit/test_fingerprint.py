"""Fingerprints: one per cause, whatever varies around it, in bounded time."""

import subprocess
import sys
import time
import tracemalloc
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.letters.fingerprint import fingerprint, frames, normalise

TRACE = """Traceback (most recent call last):
  File "{root}/app/tasks.py", line {a}, in sync_base
    rows = await fetch(base)
  File "{root}/lib/python3.11/site-packages/client.py", line {b}, in fetch
    raise ConnectionError(url)
ConnectionError: {message}
"""


def trace(message: str = "gone", root: str = "/srv", a: int = 10, b: int = 20) -> str:
    return TRACE.format(root=root, a=a, b=b, message=message)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(["/srv", "C:\\x", "/opt/a b"]))
def test_a_shifted_line_or_another_install_path_is_the_same_cause(a, b, root):
    assert fingerprint("E", "gone", trace(root=root, a=a, b=b)) == fingerprint("E", "gone", trace())


@given(st.uuids(), st.integers(1000, 10**12), st.datetimes())
def test_ids_numbers_and_times_do_not_matter(uuid: UUID, number: int, when):
    def message(uuid, number, when) -> str:
        return f"no record {uuid} of tenant {number} at {when.isoformat()} in /tmp/{number}/x.csv"

    first = message(uuid, number, when)

    other = message(UUID(int=7), 123456, when.replace(year=2020))
    assert fingerprint("E", first, "") == fingerprint("E", other, "")


@given(st.text(max_size=400))
def test_any_text_has_a_fingerprint_of_16_hex_digits(text):
    made = fingerprint(text, text, text)

    assert len(made) == 16
    assert int(made, 16) >= 0
    assert len(normalise(text)) <= 500


@given(st.sampled_from(["retry 3 of 5", "HTTP 503", "bad field 'email'", "KeyError: 'name'"]))
def test_what_tells_causes_apart_stays(text):
    assert normalise(text) == text


def test_different_types_messages_and_frames_are_different_causes():
    made = {
        fingerprint("ValueError", "gone", trace()),
        fingerprint("KeyError", "gone", trace()),
        fingerprint("ValueError", "missing", trace()),
        fingerprint("ValueError", "gone", trace().replace("in fetch", "in send")),
    }

    assert len(made) == 4


def test_only_the_last_exception_of_a_chain_and_its_five_innermost_frames_count():
    inner = "".join(f'  File "/x/m{n}.py", line {n}, in f{n}\n    pass\n' for n in range(9))
    text = f"{trace()}\nDuring handling of the above exception, another exception occurred:\n\n"
    text += f"Traceback (most recent call last):\n{inner}KeyError: 'x'\n"

    assert frames(text) == ("m4.py:f4", "m5.py:f5", "m6.py:f6", "m7.py:f7", "m8.py:f8")


def test_the_frames_of_an_exception_group_are_found():
    text = '  + Exception Group Traceback (most recent call last):\n  |   File "/a/b.py", line 3, in g\n'

    assert frames(text) == ("b.py:g",)


def test_another_process_makes_the_same_fingerprint():
    code = "from app.letters.fingerprint import fingerprint as f; print(f('E', 'user 12345', 'x'))"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == fingerprint("E", "user 99999", "x")


@pytest.mark.parametrize(
    "bait",
    [
        "a",
        "'",
        "/",
        "1.",
        "a@",
        "a-",
        "a.b@c.",
        "\x00\udc80",
        "http://",
        "0x",
        'File "',
        "\n",
        "~/",
    ],
)
def test_ten_megabytes_of_anything_take_bounded_time_and_memory(bait):
    text = bait * (10_000_000 // len(bait))
    fingerprint("E", text, text)  # warm

    tracemalloc.start()
    fingerprint("E", text, text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    took = []
    for _ in range(3):
        start = time.process_time()
        fingerprint("E", text, text)
        took.append(time.process_time() - start)

    assert min(took) < 0.020
    assert peak < 5_000_000


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=30).filter(str.isprintable))
def test_real_tracebacks_keep_their_fingerprint_when_raised_again(key):
    import traceback

    def raised() -> tuple[str, str]:
        try:
            {}[key]
        except KeyError as error:
            return str(error), traceback.format_exc()
        raise AssertionError

    assert fingerprint("KeyError", *raised()) == fingerprint("KeyError", *raised())
