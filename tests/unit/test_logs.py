"""Log lines: one event, one line, no secret, whatever is logged."""

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from app import logs
from app.settings import Settings
from tests.conftest import ROOT


def lines(form: str, secrets: tuple[str, ...] = (), **fields: Any) -> list[str]:
    return said("something happened", form, secrets, **fields)


def said(event: str, form: str, secrets: tuple[str, ...] = (), **fields: Any) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logs.formatter(form, secrets))
    logger = logging.Logger("arqscope.test")
    logger.addHandler(handler)
    logger.warning(event, extra=fields)
    return out.getvalue().splitlines()


HOSTILE = [
    "\nWARNING forged",
    "\r\nforged",
    "\x1b[2J",
    "\u2028forged",
    '"}\n{"event":"forged"',
    "\x85x",
    "\udcff",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_hostile_value_or_event_stays_on_its_line(form: str, text: str) -> None:
    for found in (
        lines(form, field=text),
        said(text, form, n=1),
        lines(form, nested={text: [text]}),
    ):
        assert len(found) == 1
        if form == "json":
            assert json.loads(found[0])["level"] == "warning"
        else:
            assert found[0].isprintable()


def test_json_lines_hold_the_event_and_its_fields() -> None:
    found = json.loads(lines("json", queue="q", ms=1.5, ok=True)[0])

    assert found["event"] == "something happened"
    assert (found["logger"], found["level"]) == ("arqscope.test", "warning")
    assert (found["queue"], found["ms"], found["ok"]) == ("q", 1.5, True)
    assert found["timestamp"].endswith("Z")


def test_console_lines_are_for_people() -> None:
    found = lines("console", queue="q", note="two words")[0]

    assert found.endswith("WARNING arqscope.test something happened queue=q note='two words'")


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_hidden_by_name_by_shape_and_when_known(form: str) -> None:
    known = 'pa"ss/w\u00f6rd'
    found = lines(
        form, (known,), password="p1-secret", x_api_key="k1-secret", nested={"token": "t1-secret"},
        url="redis://:u1-secret@host/0", key="arqs_0123abcd_" + "s1-secret".ljust(43, "x"),
        header="Bearer b1-secret-long", plain=f"before {known} after", quoted="pa%22ss%2Fw%C3%B6rd",
    )[0]  # fmt: skip

    assert "secret" not in found
    assert "rd after" not in found
    assert "pa%22ss" not in found
    assert found.count(logs.HIDDEN) >= 8


def test_a_secret_in_a_traceback_is_hidden_and_its_lines_are_marked() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.Logger("arqscope.test")
    logger.addHandler(handler)
    for form in ("json", "console"):
        handler.setFormatter(logs.formatter(form, ["hunter2-long"]))
        try:
            raise ValueError("cannot use hunter2-long")
        except ValueError:
            logger.exception("failed")

    told = out.getvalue().splitlines()
    assert "ValueError" in json.loads(told[0])["exception"]
    assert all(line.startswith("    | ") for line in told[2:])
    assert "hunter2" not in out.getvalue()


def test_a_value_that_cannot_be_shown_or_is_huge_does_not_cost_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    found = json.loads(lines("json", broken=Broken(), huge="x" * 1_000_000)[0])

    assert found["broken"] == "<Broken>"
    assert len(found["huge"]) < 5_000


def test_a_line_within_a_request_has_its_id() -> None:
    token = logs.request_id.set("request-1")
    try:
        assert json.loads(lines("json")[0])["requestId"] == "request-1"
    finally:
        logs.request_id.reset(token)
    assert "requestId" not in json.loads(lines("json")[0])


def test_settings_know_their_secrets_and_never_show_them() -> None:
    settings = Settings(
        api_key="key-1", payload_key="key-2", redis_password="pw-1", redis_url="redis://:pw%2F2@h:1/0"
    )  # fmt: skip

    assert set(settings.secrets()) == {"key-1", "key-2", "pw-1", "pw/2"}
    assert not any(secret in repr(settings) for secret in ("key-1", "key-2", "pw-1", "pw%2F2"))


def test_arqs_own_lines_come_once_and_in_our_form() -> None:
    code = (
        "import logging; from arq.logs import default_log_config; import logging.config;"
        "logging.config.dictConfig(default_log_config(False));"
        "from app import logs; logs.configure('INFO', 'json');"
        "logging.getLogger('arq.worker').info('job %s', 'x\\nforged')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    told = ended.stderr.splitlines()
    assert len(told) == 1
    assert json.loads(told[0])["event"] == "job x\nforged"
