"""Next jobs: what is refused, what travels in the payload, which ids they get."""

import pytest

from app.enqueue import JobRequest
from app.errors import BadPayload, InvalidRequest
from app.next_jobs import NextJob, check_chain, next_id, places_of


def chain(length):
    job = NextJob(name="last")
    for _ in range(length - 1):
        job = NextJob(name="step", then=[job])
    return job


def test_next_jobs_survive_the_payload():
    asked = [
        NextJob(name="b", queue="q2", data={"x": [1]}, delay_s=2.5, then=(NextJob(name="c"),)),
        NextJob(name="d", data=None),
    ]

    options = JobRequest(name="a", then=asked).options()

    assert [NextJob.from_wire(raw) for raw in options["then"]] == asked
    assert "then" not in JobRequest(name="a").options()


@pytest.mark.parametrize(
    "make",
    [
        lambda: NextJob(name=""),
        lambda: NextJob(name="a b"),
        lambda: NextJob(name="a", queue="no way"),
        lambda: NextJob(name="a", delay_s=-1),
        lambda: NextJob(name="a", delay_s=float("nan")),
        lambda: check_chain([NextJob(name="a")] * 21),
        lambda: check_chain([NextJob(name="a", then=[NextJob(name="b")] * 21)]),
        lambda: check_chain([chain(21)]),
        lambda: JobRequest(name="a", then=[chain(25)]).options(),
    ],
)
def test_what_cannot_follow_is_refused(make):
    with pytest.raises(InvalidRequest, match="then"):
        make()


def test_a_long_chain_is_accepted_up_to_its_bound():
    assert check_chain([chain(20)])


@pytest.mark.parametrize(
    "raw", [{}, {"n": 1}, "x", {"n": "a", "w": "x"}, {"n": "a", "t": [{}]}, None]
)
def test_a_damaged_option_is_told(raw):
    with pytest.raises(BadPayload):
        NextJob.from_wire(raw)


def test_ids_derive_from_the_first_job_and_stay_ids():
    assert next_id("order-7", 1) == next_id("order-7~r3", 1) == "order-7.then-1"
    assert next_id("a~rest", 2) == "a~rest.then-2"
    deep = "x" * 60
    for _ in range(30):
        deep = next_id(deep, 1)
    assert len(deep) <= 110
    assert next_id("\udcff", 1) != next_id("\udcfe", 1)


def test_a_chain_goes_on_on_the_queue_it_came_to():
    nexts = [NextJob(name="b", then=[NextJob(name="c", queue="q2", then=[NextJob(name="d")])])]

    assert places_of(nexts, "q1") == {("q1", "b"), ("q2", "c"), ("q2", "d")}
