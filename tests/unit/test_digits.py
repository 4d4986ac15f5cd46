"""Digits that ``int`` does not read: raised and circled ones in addresses, forms, cookies and cursors."""

import ast
from pathlib import Path

import pytest

from app.cursors import claim_of
from app.errors import InvalidRequest, SettingsError
from app.letters.filters import moment_ms
from app.pages import bulk, travel
from app.pages.address import PLACES
from app.pages.sieve import page_number
from app.pages.visit import Address, _number
from app.pages.window import moment_of
from app.plans.ask import moment
from app.sentinels import watched
from tests.unit.test_pages import make_queue, make_snapshot, make_visit, shown

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_795_650_000_000.0
#: ``isdigit`` is true of each, ``int`` and ``float`` raise
ODD = ["²", "1²", "①", "፩"]
#: where bytes are asked, of which ``isdigit`` means ASCII
OF_BYTES = {"append_only.py", "listening.py", "claimer.py", "supervision.py"}


def test_no_text_is_asked_for_digits_int_cannot_read():
    """
    ``"²".isdigit()`` is true and ``int("²")`` raises: an answer of 500 to an odd address.
    """
    asking = {
        path.name
        for package in ("app", "workers")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "isdigit"
    }

    assert asking <= OF_BYTES


@pytest.mark.parametrize("odd", ODD)
def test_odd_digits_are_no_number_of_an_address(odd: str):
    assert odd.isdigit()

    assert moment_of(odd) is None
    assert travel.moment_at(odd, NOW_MS) == ""
    assert page_number(Address("dead-letters", {"page": odd}), 500) == 0
    assert _number(odd) is None
    assert claim_of(f"{odd}:1:1:w")["worker"] == ""


@pytest.mark.parametrize("odd", ODD)
def test_odd_digits_are_refused_by_name(odd: str):
    with pytest.raises(InvalidRequest, match="since"):
        moment("since", odd, NOW_MS)
    with pytest.raises(InvalidRequest, match="since"):
        moment_ms("since", odd)
    with pytest.raises(InvalidRequest, match="rate"):
        bulk._number({"rate": odd}, "rate")
    with pytest.raises(SettingsError, match="number"):
        watched(f"redis+sentinel://h:1/main/{odd}")
    with pytest.raises(SettingsError, match="host:port"):
        watched(f"redis+sentinel://h:{odd}/main")


@pytest.mark.parametrize("odd", ODD[:1])
@pytest.mark.parametrize("page", [page for page in PLACES if PLACES[page].takes])
def test_every_page_opens_with_odd_digits_in_its_address(page: str, odd: str):
    query = dict.fromkeys(PLACES[page].takes, odd)

    visit, _ = make_visit(make_snapshot(queues=[make_queue()]), page=page, query=query)
    visit._pulse.set(odd)

    assert shown(visit)
