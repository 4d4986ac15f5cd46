"""Jobs submitted: once, in lists, and what is refused, in one shape."""

import httpx
import pytest


def test_the_same_job_id_or_idempotency_key_makes_one_job(api: httpx.Client) -> None:
    job = {"name": "generic", "options": {"jobId": "once-only"}}
    first = api.post("/jobs/async-processing", json=job)
    second = api.post("/jobs/async-processing", json=job)
    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json()["existed"] is True

    keyed = {"Idempotency-Key": "a key of the caller"}
    ids = {
        api.post("/jobs/async-processing", json={"name": "generic"}, headers=keyed).json()["id"]
        for _ in range(3)
    }
    assert len(ids) == 1


def test_an_idempotency_key_gives_the_same_answer_and_refuses_another_request(
    api: httpx.Client,
) -> None:
    keyed = {"Idempotency-Key": "event-7"}
    event = {"type": "user.created", "data": {"n": 1}}
    first = api.post("/events", json=event, headers=keyed)
    again = api.post("/events", json=event, headers=keyed)
    other = api.post("/events", json={**event, "data": {"n": 2}}, headers=keyed)

    assert first.status_code == 201
    assert (again.status_code, again.text) == (201, first.text)
    assert again.headers["idempotency-replayed"] == "true"
    assert other.status_code == 409
    assert "Idempotency-Key" in other.json()["error"]["message"]


def test_a_list_of_jobs_answers_with_a_list(api: httpx.Client) -> None:
    answer = api.post(
        "/jobs/async-processing", json=[{"name": "generic", "data": n} for n in range(3)]
    )

    assert answer.status_code == 201
    assert [job["data"] for job in answer.json()] == [0, 1, 2]


def test_an_unknown_function_or_queue_is_refused_with_the_known_names(api: httpx.Client) -> None:
    function = api.post("/jobs/async-processing", json={"name": "nope"})
    queue = api.post("/jobs/nope", json={"name": "generic"})

    assert function.status_code == 422
    assert "data-sync" in function.json()["error"]["hint"]
    assert function.json()["error"]["field"] == "name"
    assert queue.status_code == 404
    assert "async-processing" in queue.json()["error"]["hint"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"\xff\xfe", 400),
        (b'{"name":"generic","data":NaN}', 422),
        (b'{"name":"generic","data":1e400}', 422),
        (b'{"name":"generic","name":"generic"}', 422),
        (b'{"name":"generic","data":"\\ud800"}', 422),
        (b'{"name":"generic","data":' + b"9" * 5000 + b"}", 422),
        (b'{"name":"generic","data":' + b"[" * 100 + b"]" * 100 + b"}", 422),
        (b"[" * 100_000, 422),
        (b"[]", 422),
        (b'{"name":5}', 422),
        (b'{"name":"generic","surprise":1}', 422),
        (b'{"name":"generic","options":{"timeout":-1}}', 422),
        (b'{"name":"generic","options":{"attempts":1.5}}', 422),
        (b'{"name":"generic","options":{"jobId":"a b"}}', 422),
        (b'{"name":"generic","options":{"jobId":"x\\ny"}}', 422),
        (b'{"name":"generic","data":1,"args":[1]}', 422),
        (b'{"name":"generic","data":"' + b"x" * 300_000 + b'"}', 413),
        (b'{"name":"generic","data":"' + b"x" * 1_500_000 + b'"}', 413),
    ],
)
def test_a_body_that_cannot_be_a_job_is_refused_in_one_shape(
    api: httpx.Client, body: bytes, status: int
) -> None:
    answer = api.post(
        "/jobs/async-processing", content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == status, answer.text[:300]
    assert set(answer.json()) == {"error", "requestId"}
    assert set(answer.json()["error"]) == {"code", "message", "field", "hint"}
    assert answer.headers["x-request-id"] == answer.json()["requestId"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"{}", 200),
        (b"null", 200),
        (b"{", 400),
        (b'{"a":1,"a":2}', 422),
        (b'{"a":NaN}', 422),
        (b'{"a":"\\ud800"}', 422),
        (b'{"reason":"ignored, or not?"}', 422),
        (b"[]", 422),
    ],
)
def test_where_no_body_is_read_none_is_taken(api: httpx.Client, body: bytes, status: int) -> None:
    answer = api.post(
        "/queues/long-running-jobs/resume",
        content=body,
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == status, answer.text[:300]
    if status != 200:
        assert set(answer.json()) == {"error", "requestId"}


def test_a_form_is_not_json(api: httpx.Client) -> None:
    answer = api.post("/jobs/async-processing", data={"name": "generic"})

    assert answer.status_code == 400
    assert "Content-Type" in answer.json()["error"]["hint"]


def test_a_chunked_body_over_the_limit_is_refused(api: httpx.Client) -> None:
    answer = api.post(
        "/jobs/async-processing",
        content=(b"x" * 100_000 for _ in range(15)),
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 413
