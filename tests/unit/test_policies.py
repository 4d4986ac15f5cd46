"""Policies: ordered rules decide about dead letters; nothing goes round for ever."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import SettingsError
from app.records import DeadLetter, LetterState
from app.settings import Settings
from workers.policies import BUILT_IN_RULES, Action, Rule, decide, load_rules

SETTINGS = Settings(retry_attempts=3, retry_delay=5000)


def make_letter(error_type: str = "RuntimeError", error: str = "boom", **more) -> DeadLetter:
    facts = {
        "id": "j1",
        "kind": "job",
        "source": "async-processing",
        "name": "sync",
        "state": LetterState.NEW,
        "reason": "attempts",
    }
    return DeadLetter(**(facts | {"error_type": error_type, "error": error} | more))


@pytest.mark.parametrize(
    ("letter", "action"),
    [
        (make_letter("ConnectionError"), Action.RETRY),
        (make_letter("TimeoutError"), Action.RETRY),
        (make_letter("RateLimitExceeded"), Action.RETRY),
        (make_letter("ApiError", "Rate limit reached"), Action.RETRY),
        (make_letter("CancelledError", reason="timeout"), Action.RETRY),
        (make_letter("ValueError"), Action.DISCARD),
        (make_letter("ValidationError"), Action.DISCARD),
        (make_letter("BadRecord", kind="event", reason="malformed"), Action.DISCARD),
        (make_letter("BadPayload", "the payload is pickled"), Action.ALERT),
        (make_letter("PermissionError"), Action.ALERT),
        (make_letter("AuthenticationError"), Action.ALERT),
        (make_letter("ApiError", "401 Unauthorized"), Action.ALERT),
        (make_letter("UnknownFunction", reason="unknown-function"), Action.ALERT),
        (make_letter("Crash", reason="crash"), Action.ALERT),
        (make_letter("PermanentError", reason="permanent"), Action.ALERT),
        (make_letter("RuntimeError"), Action.RETRY),
        (make_letter("RuntimeError", redrives=1), Action.ALERT),
    ],
)
def test_the_built_in_rules_decide_each_class(letter, action):
    assert decide(letter, BUILT_IN_RULES, SETTINGS).action is action


@given(st.text(max_size=40), st.text(max_size=200), st.integers(0, 200))
def test_no_letter_is_retried_beyond_the_budget(error_type, error, redrives):
    decision = decide(make_letter(error_type, error, redrives=redrives), BUILT_IN_RULES, SETTINGS)

    assert decision.action is not Action.RETRY or redrives < SETTINGS.retry_attempts
    assert decision.reason


def test_each_retry_waits_longer():
    delays = [
        decide(make_letter("ConnectionError", redrives=n), BUILT_IN_RULES, SETTINGS).delay_s
        for n in range(3)
    ]

    assert delays == [5, 10, 20]


def test_the_operators_rules_come_first(tmp_path: Path):
    file = tmp_path / "arqscope.toml"
    file.write_text(
        '[[policies]]\nname = "money"\naction = "escalate"\nfunction = ["bill-*"]\n'
        '[[policies]]\naction = "ARCHIVE"\nexception = "ConnectionError"\nqueue = "async-*"\n'
        'message_prefix = "old"\n'
    )

    rules = load_rules(file)

    def action(letter: DeadLetter) -> Action:
        return decide(letter, rules, SETTINGS).action

    assert action(make_letter("ConnectionError", name="bill-run")) is Action.ESCALATE
    assert action(make_letter("ConnectionError", "Old server")) is Action.ARCHIVE
    assert action(make_letter("ConnectionError", "new server")) is Action.RETRY


@pytest.mark.parametrize(
    "text",
    [
        '[[policies]]\naction = "EXPLODE"',
        '[[policies]]\nexception = "X"',
        '[[policies]]\naction = "ALERT"\nregex = "(a+)+"',
        f'[[policies]]\naction = "ALERT"\nexception = "{"x" * 201}"',
        '[[policies]]\naction = "RETRY"\nretries = 101',
        '[policies]\naction = "RETRY"',
        "[[policies",
    ],
)
def test_a_rule_that_is_wrong_is_refused_with_its_place(tmp_path: Path, text: str):
    file = tmp_path / "arqscope.toml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=r"arqscope\.toml"):
        load_rules(file)


def test_a_glob_of_many_stars_is_fast():
    rule = Rule(name="bait", action=Action.ALERT, message_like=("*a" * 90 + "b",))

    assert not rule.fits(make_letter(error="a" * 100_000))
