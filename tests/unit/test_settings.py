"""Settings: the specification's names, our prefix, clear refusals, secrets that stay secret."""

import re
from pathlib import Path

import pytest

from app.errors import NotFound, SettingsError
from app.settings import Settings, environment_names, masked_url
from tests.conftest import ROOT


def load(environ: dict[str, str] | None = None, env_file: Path | None = None) -> Settings:
    return Settings.load(environ or {}, env_file=env_file)


def test_every_setting_has_a_safe_default():
    settings = load()

    assert settings.queue_ui_host == "127.0.0.1"
    assert settings.queue_names == ("long-running-jobs", "async-processing", "event-driven-jobs")


def test_the_specifications_names_work():
    settings = load({"REDIS_QUEUE_URL": "redis://example:7000/3", "CONCURRENCY": "9"})

    assert (settings.url("queue"), settings.concurrency) == ("redis://example:7000/3", 9)


def test_our_names_have_a_prefix():
    assert load({"ARQSCOPE_LEASE_S": "12"}).lease_s == 12


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    with pytest.raises(SettingsError, match="did you mean ARQSCOPE_LEASE_S"):
        load({"ARQSCOPE_LEASES": "12"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUEUE_UI_PORT", "80o9"),
        ("CONCURRENCY", "0"),
        ("REDIS_URL", "http://localhost"),
        ("STREAM_NAME", "a b"),
        ("LOG_LEVEL", "LOUD"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_value(name: str, value: str):
    with pytest.raises(SettingsError, match=name) as caught:
        load({name: value})

    assert value in str(caught.value)


def test_the_environment_wins_over_the_env_file(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text('# comment\nexport CONCURRENCY=3\nENVIRONMENT="staging"\n')

    settings = load({"CONCURRENCY": "4"}, file)

    assert (settings.concurrency, settings.environment) == (4, "staging")


def test_a_line_that_is_no_setting_is_refused_by_number(tmp_path: Path):
    file = tmp_path / ".env"
    file.write_text("CONCURRENCY=3\nnonsense\n")

    with pytest.raises(SettingsError, match="line 2"):
        load(env_file=file)


def test_the_shared_password_fills_urls_without_one():
    settings = load(
        {
            "REDIS_PASSWORD": "p@ss/word",
            "REDIS_STREAMS_URL": "redis://:own@example:6380/0",
        }
    )

    assert settings.url("cache") == "redis://:p%40ss%2Fword@127.0.0.1:6379/0"
    assert settings.url("streams") == "redis://:own@example:6380/0"


def test_secrets_do_not_show():
    settings = load({"REDIS_PASSWORD": "hush-1", "API_KEY": "hush-2"})

    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert masked_url("redis://:hush@example:1/0") == "redis://:***@example:1/0"


def test_a_toml_file_declares_queues(tmp_path: Path):
    file = tmp_path / "arqscope.toml"
    file.write_text("[queues.reports]\ntimeout_s = 60\n[queues.async-processing]\nattempts = 9\n")

    settings = load({"ARQSCOPE_CONFIG_FILE": str(file)})

    assert settings.queue("reports").timeout_s == 60
    assert settings.queue("async-processing").attempts == 9
    assert settings.queue("async-processing").timeout_s == 600


def test_the_specifications_overrides_hold_for_every_queue():
    settings = load({"MAX_JOB_ATTEMPTS": "2", "JOB_TIMEOUT": "1500"})

    policies = [settings.queue(name) for name in settings.queue_names]
    assert {(p.attempts, p.timeout_s) for p in policies} == {(2, 1.5)}


def test_an_unknown_queue_is_answered_with_the_known_ones():
    with pytest.raises(NotFound) as caught:
        load().queue("nope")

    assert caught.value.known == load().queue_names


def test_every_setting_says_what_it_is():
    assert [name for name, text in environment_names().items() if not text] == []


def test_the_template_names_every_setting_and_holds_no_secret() -> None:
    """
    compose/env.example is what an operator copies: complete, and without a password to forget.
    """
    text = (ROOT / "compose" / "env.example").read_text(encoding="utf-8")
    lines = text.partition("# --- read by compose.yaml alone")[0].splitlines()
    named = dict(line[1:].split("=", 1) for line in lines if re.match(r"#[A-Z_]+=", line))

    assert set(named) == set(environment_names())
    assert {named[n] for n in ("REDIS_PASSWORD", "API_KEY", "ARQSCOPE_PAYLOAD_KEY")} == {""}


def test_declared_streams_stand_beside_the_default_one(tmp_path: Path):
    file = tmp_path / "arqscope.toml"
    file.write_text(
        '[[streams]]\nname = "billing"\ngroup = "tills"\npartition = ["correlationId"]\n'
        '[[streams]]\nname = "main"\nkeep = 5000\n'
    )

    settings = load(
        {"ARQSCOPE_CONFIG_FILE": str(file), "STREAM_NAME": "main", "ARQSCOPE_EVENT_ATTEMPTS": "2"}
    )

    assert settings.stream_names == ("main", "billing")
    main, billing = settings.streams
    assert (main.group, main.attempts, main.keep) == ("event-processors", 2, 5000)
    assert (billing.group, billing.attempts, billing.partition) == ("tills", 2, ("correlationId",))
    assert settings.stream("billing") == billing
    with pytest.raises(NotFound, match="nowhere"):
        settings.stream("nowhere")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[[streams]]\nname = "a b"\n', "letters, digits"),
        ('[[streams]]\nname = "a"\npartition = ["data"]\n', "is none of"),
        ('[[streams]]\nname = "a"\n[[streams]]\nname = "a"\n', "twice"),
        ("[streams.a]\nkeep = 5000\n", r"\[\[streams\]\]"),
        ('[[streams]]\nname = "a"\nkept = 5000\n', "kept"),
    ],
)
def test_a_bad_stream_is_refused_with_the_reason(tmp_path: Path, text: str, word: str):
    file = tmp_path / "arqscope.toml"
    file.write_text(text)

    with pytest.raises(SettingsError, match=word):
        load({"ARQSCOPE_CONFIG_FILE": str(file)})
