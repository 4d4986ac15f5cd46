"""Which server holds which queue, and what a mistake in REDIS_QUEUE_SHARDS is told as."""

import pytest

from app.errors import SettingsError
from app.placement import AT_HOME, HOME, MOST, Placement
from app.settings import Settings

TWO = "reports,thumbnails-*=redis://a:6379/0 thumbnails-big,mail=rediss://b:6379/1"


def test_without_further_servers_every_queue_is_at_home() -> None:
    """Nothing placed: the home holds whatever is asked for."""
    assert AT_HOME.names == (HOME,)
    assert AT_HOME.server_of("anything") == HOME
    assert Settings().placement == AT_HOME
    assert Placement.parse("  ") == AT_HOME


def test_a_queues_own_name_wins_over_the_beginning_of_it() -> None:
    """Names first, then the longest beginning, then the home."""
    placement = Placement.parse(TWO)
    assert placement.names == (HOME, "queue-2", "queue-3")
    where = {name: placement.server_of(name) for name in ("reports", "thumbnails-1", "mail", "x")}
    assert where == {"reports": "queue-2", "thumbnails-1": "queue-2", "mail": "queue-3", "x": HOME}
    assert placement.server_of("thumbnails-big") == "queue-3"
    nested = Placement.parse("a*=redis://a abc*=redis://b *=redis://c")
    assert [nested.server_of(name) for name in ("ab", "abcd", "z")] == [
        "queue-2",
        "queue-3",
        "queue-4",
    ]
    assert placement.held_by("queue-3", ["mail", "reports", "x"]) == ("mail",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reports", "has no '='"),
        ("=redis://a:1", "names no queue before '='"),
        ("re ports=redis://a:1", "has no '='"),
        ("re|ports=redis://a:1", "'re|ports' is no queue"),
        ("r*x=redis://a:1", "'r*x' is no queue"),
        ("letters=redis://a:1", "'letters' is no queue"),
        ("reports=http://a:1", "the address after '=' is not a redis://"),
        ("reports=redis+sentinel://a:1", "a sentinel URL looks like"),
        ("a=redis://a:1 b,a=redis://b:1", "'a' was placed by entry 1 already"),
        (
            "a=redis://a:1 b=redis://a:1",
            "names the same server as entry 1: put its queues into one",
        ),
        (
            "a=redis://home:1",
            "same server as REDIS_QUEUE_URL: put its queues into one entry, or leave",
        ),
        (" ".join(f"q{n}=redis://h{n}" for n in range(MOST + 1)), f"at most {MOST}"),
    ],
)
def test_each_mistake_is_told_with_its_entry(text: str, says: str) -> None:
    """The sentence names the entry and what to do."""
    with pytest.raises(SettingsError) as told:
        Placement.parse(text, home="redis://home:1", taken=("letters",))
    assert says in str(told.value)


def test_settings_tell_a_mistake_at_once_and_never_the_password() -> None:
    """A wrong value stops the start; the password of an address is in no sentence and no repr."""
    with pytest.raises(SettingsError) as told:
        Settings.load({"REDIS_QUEUE_SHARDS": "mail=http://:hush@a:1"}, env_file=None)
    assert "REDIS_QUEUE_SHARDS" in str(told.value)
    assert "hush" not in str(told.value)
    settings = Settings.load(
        {"REDIS_QUEUE_SHARDS": "mail=redis://:hush@a:1", "REDIS_PASSWORD": "pw"}, env_file=None
    )
    assert "hush" not in repr(settings)
    assert "hush" in settings.secrets()


def test_a_shards_address_is_completed_like_the_homes() -> None:
    """Password where it has none, TLS checked, sentinels' password."""
    settings = Settings.load(
        {
            "REDIS_QUEUE_SHARDS": "mail=rediss://a:1/3 news=redis://:own@b:1",
            "REDIS_PASSWORD": "pw",
        },
        env_file=None,
    )
    assert settings.url_of_queue("mail").startswith("rediss://:pw@a:1/3?ssl_cert_reqs=required")
    assert settings.url_of_queue("news") == "redis://:own@b:1"
    assert settings.url_of_queue("other") == settings.url("queue")


def test_the_shards_may_lie_in_a_file(tmp_path) -> None:
    """Addresses may hold passwords: REDIS_QUEUE_SHARDS_FILE works as it does for the other secrets."""
    path = tmp_path / "shards"
    path.write_text(TWO)
    settings = Settings.load({"REDIS_QUEUE_SHARDS_FILE": str(path)}, env_file=None)
    assert settings.placement.names == (HOME, "queue-2", "queue-3")
