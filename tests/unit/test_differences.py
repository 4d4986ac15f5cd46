"""Where our worker differs from arq's: the list people read and the one the suite of arq is run by."""

import re

from tests.conftest import ROOT
from tests.stock.differences import DIFFERENCES, LOG_LINES_ONLY


def test_every_test_of_arq_that_may_fail_has_a_row_that_says_why() -> None:
    """
    A difference nobody wrote down is a bug.
    """
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    section = text.partition("## Where the worker differs")[2]
    rows = re.findall(r"^\| (.+?) \|", section, re.MULTILINE)

    for difference in DIFFERENCES:
        assert any(row.startswith(difference) for row in rows), difference


def test_no_test_of_arq_is_listed_twice() -> None:
    names = [name for tests in (*DIFFERENCES.values(), LOG_LINES_ONLY) for name in tests]

    assert len(names) == len(set(names))
