"""Which process a connection is for, read out of the head of a request nobody has checked yet."""

import base64
import json
import zlib

import pytest
from bokeh.core.types import ID
from bokeh.util.token import generate_jwt_token
from hypothesis import given
from hypothesis import strategies as st

from app.door.switchboard import place_of


def head(token: str, method: str = "GET", before: str = "") -> bytes:
    return (
        f"{method} /admin/queues/ws HTTP/1.1\r\nHost: x\r\n{before}"
        f"Sec-WebSocket-Protocol: bokeh, {token}\r\n\r\n"
    ).encode()


def token(**added: object) -> str:
    return generate_jwt_token(
        ID("a-session"), secret_key=b"k" * 32, signed=True, extra_payload=dict(added)
    )


def test_a_token_of_bokehs_names_the_process() -> None:
    made = token(place=3, headers={"User-Agent": "x" * 3000}, arguments={"a": [b"b"]})

    assert place_of(head(made)) == 3
    assert place_of(head(made, method="POST")) is None
    assert place_of(head(made).replace(b"Sec-WebSocket-P", b"sec-websocket-p")) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        head(token()),
        head(token(place="3")),
        head(token(place=[1])),
        head("no-token"),
        head(base64.urlsafe_b64encode(b"[" * 5_000).decode()),
        head(base64.urlsafe_b64encode(b'{"__bk__zlib_": 7}').decode()),
        head(base64.urlsafe_b64encode(b'["__bk__zlib_"]').decode()),
        b"GET / HTTP/1.1\r\n\r\n" + head(token(place=1)),
    ],
)
def test_anything_else_names_none(raw: bytes) -> None:
    assert place_of(raw) is None


def test_a_bomb_is_not_unpacked() -> None:
    bomb = base64.urlsafe_b64encode(zlib.compress(b" " * 50_000_000, 9)).decode().rstrip("=")
    body = base64.urlsafe_b64encode(json.dumps({"__bk__zlib_": bomb[:5_000]}).encode()).decode()

    assert place_of(head(body.rstrip("="))) is None


@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail(noise: bytes) -> None:
    place_of(b"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: bokeh, " + noise + b"\r\n\r\n")
    encoded = base64.urlsafe_b64encode(noise)
    place_of(b"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: bokeh, " + encoded + b"\r\n\r\n")
