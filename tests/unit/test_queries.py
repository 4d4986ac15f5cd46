"""Queries that act: what an operation is told of their conditions."""

from typing import Any, cast

import pytest

from app.plans.ask import Ask
from app.scope.query import Query
from app.snapshot import Snapshot


class Deployment:
    """One that knows no queue yet."""

    snapshot = Snapshot.empty()


def query(**conditions: Any) -> Query:
    return Query(cast(Any, Deployment()), Ask(what="dead_letters", sources=("q",))).where(
        **conditions
    )


def test_one_text_is_a_condition_of_the_operation() -> None:
    assert query(error_type="ValueError")._orders() == [("q", {"error_type": "ValueError"})]


@pytest.mark.parametrize("value", ["", (), [], ("",), None, float("nan"), ("A", "B"), 1])
def test_what_an_operation_would_not_read_as_this_condition_is_not_given_to_it(value: Any) -> None:
    """
    Nothing as a condition would mean all letters: ``where(error_type="").retry()`` retried every one.
    """
    assert query(error_type=value)._orders() is None
