"""A scope over HTTP: whatever a server, or what stands in its place, answers is an error of ours."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from app.errors import ArqscopeError, RedisUnavailable
from app.scope.caller import Caller

Serve = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Answer every request with the same bytes, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_with(said: bytes) -> str:
            def run() -> None:
                while True:
                    try:
                        caller, _ = listener.accept()
                    except OSError:  # closed: the test is over
                        return
                    with caller:
                        caller.recv(65_536)
                        caller.sendall(said)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield answer_with
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "said",
    [
        b"-ERR wrong protocol\r\n\r\n",  # a Redis, or anything else that speaks no HTTP
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",  # cut off in the middle
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",  # more headers than a client takes
    ],
)
def test_what_is_no_answer_says_the_server_does_not_answer(serve: Serve, said: bytes) -> None:
    """
    http.client raises HTTPException for these, which is no OSError.
    """
    where = serve(said)

    with pytest.raises(RedisUnavailable, match=f"{where} does not answer"):
        Caller(where)._get("/stats")


def test_an_error_whose_body_is_cut_off_is_still_told_by_its_status(serve: Serve) -> None:
    where = serve(b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    with pytest.raises(ArqscopeError, match="503"):
        Caller(where)._get("/stats")
