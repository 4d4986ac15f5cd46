"""A job is submitted below FastAPI; whoever asks cannot tell, and nothing that holds there is lost."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.serving import KEY, RunningServer

PATH = "/jobs/event-driven-jobs"
JSON = {"Content-Type": "application/json"}
BODIES: list[Any] = [
    {"name": "generic"},
    {"name": "generic", "data": {"é": [1, 2.5, None, True, "\U0001f600"]}},
    {"name": "generic", "data": None},
    {"name": "generic", "args": [1], "kwargs": {"a": 2}},
    {"name": "generic", "options": {"delay": 1000, "backoff": {"delay": 5}, "attempts": 2}},
    {"name": "generic", "options": {"then": [{"name": "generic", "then": [{"name": "generic"}]}]}},
    [{"name": "generic"}, {"name": "generic", "data": 1}],
    [],
    [{"name": "generic"}] * 1_001,
    [{"name": "generic"}, {"name": 5}],
    None,
    5,
    "text",
    {},
    {"name": "nope"},
    {"name": "a b"},
    {"name": "generic", "surprise": 1},
    {"name": "generic", "data": 1, "args": [1]},
    {"name": "generic", "options": {"attempts": 1.5}},
    {"name": "generic", "options": {"delay": -1, "timeout": 0}},
    {"name": "generic", "options": {"jobId": "a b"}},
    {"name": "generic", "options": {"then": [{"name": "nope"}]}},
    {"name": "generic", "options": {"then": [{"name": "generic", "queue": "nope"}]}},
    {"name": "generic", "data": "x" * 300_000},
]
RAW = [
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"name":"generic","data":NaN}',
    b'{"name":"generic","name":"generic"}',
    b'{"name":"generic","data":"\\ud800"}',
    b'{"name":"generic","data":' + b"9" * 5_000 + b"}",
    b'{"name":"generic","data":' + b"[" * 50 + b"]" * 50 + b"}",
]


@pytest.fixture(scope="module")
def both(keyed: RunningServer) -> Iterator[httpx.Client]:
    with keyed.client(X_API_Key=KEY) as client:
        yield client


def _alike(answer: httpx.Response) -> tuple[int, Any, list[tuple[str, str]]]:
    """What two answers to the same must have in common: all but ids and times."""
    body = answer.json()
    for one in body if isinstance(body, list) else [body]:
        for name in ("id", "created", "requestId"):
            if name in one:
                assert one[name]
                one[name] = "…"
    passing = {"date", "x-request-id", "content-length"}
    return (
        answer.status_code,
        body,
        sorted((name, value) for name, value in answer.headers.items() if name not in passing),
    )


@pytest.mark.parametrize(
    "body",
    [*(json.dumps(body).encode() for body in BODIES), *RAW],
    ids=lambda body: repr(body[:40]),
)
def test_both_ways_give_the_same_answer(both: httpx.Client, body: bytes) -> None:
    """
    A body whose length is not said goes the way of FastAPI.
    """
    headers = {**JSON, "X-Request-Id": "one-of-two-ways"}

    direct = both.post(PATH, content=body, headers=headers)
    usual = both.post(PATH, content=iter([body]), headers=headers)

    assert _alike(direct) == _alike(usual)
    assert direct.headers["x-request-id"] == usual.headers["x-request-id"] == "one-of-two-ways"
    assert int(direct.headers["content-length"]) == len(direct.content)
    assert "date" in direct.headers


@pytest.mark.parametrize(
    "path", ["/jobs/nope", "/jobs/dead-letter-queue", "/jobs/" + "q" * 200, "/jobs/a%20b"]
)
def test_both_ways_know_the_same_queues(both: httpx.Client, path: str) -> None:
    body = b'{"name":"generic"}'

    direct = both.post(path, content=body, headers=JSON)
    usual = both.post(path, content=iter([body]), headers=JSON)

    assert direct.status_code >= 400
    assert _alike(direct) == _alike(usual)


def test_a_job_submitted_directly_is_audited_with_its_request_id(both: httpx.Client) -> None:
    asked = {"name": "generic", "options": {"jobId": "direct-1"}}

    answer = both.post(PATH, json=asked, headers={"X-Request-Id": "direct-audit-1"})

    assert answer.status_code == 201
    lines = both.get("/audit").json()
    line = next(one for one in lines["items"] if "direct-1" in one["body"])
    assert json.loads(line["body"])["detail"]["requestId"] == "direct-audit-1"


def test_requests_in_one_packet_are_answered_in_their_order(keyed: RunningServer) -> None:
    def request(number: int) -> bytes:
        body = json.dumps({"name": "generic", "data": number}).encode()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{keyed.port}\r\nX-API-Key: {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            + ("Connection: close\r\n" if number == 4 else "")
            + "\r\n"
        )
        return head.encode() + body

    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(b"".join(request(number) for number in range(5)))
        told = b""
        while piece := connection.recv(65_536):
            told += piece

    assert told.count(b"HTTP/1.1 201 Created") == 5
    assert [told.index(b'"data":%d' % number) for number in range(5)] == sorted(
        told.index(b'"data":%d' % number) for number in range(5)
    )


def test_a_client_that_leaves_before_its_answer_harms_nobody(
    keyed: RunningServer, both: httpx.Client
) -> None:
    body = b'{"name":"generic","options":{"jobId":"left-early"}}'
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{keyed.port}\r\nX-API-Key: {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", keyed.port), timeout=10) as connection:
        connection.sendall(head.encode() + body)

    asked = {"name": "generic", "options": {"jobId": "left-early"}}
    assert both.post(PATH, json=asked).status_code in (200, 201)
    assert b"Traceback" not in keyed.log.read_bytes()


def test_a_list_of_a_thousand_comes_back_in_its_order(both: httpx.Client) -> None:
    jobs = [{"name": "generic", "data": n} for n in range(1_000)]

    answer = both.post(PATH, json=jobs)

    assert answer.status_code == 201
    assert [job["data"] for job in answer.json()] == list(range(1_000))
