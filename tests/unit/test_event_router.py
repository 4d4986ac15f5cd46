"""The router: which handlers an event type has."""

import time

import pytest

from app.errors import SettingsError
from app.settings import Settings
from workers.event_router import Registry, load_handlers, patterns_of


def names(registry: Registry, event_type: str) -> list[str]:
    return [handler.name for handler in registry.matching(event_type)]


@pytest.fixture
def registry():
    registry = Registry()

    @registry.on("user.created")
    async def exact(event, context): ...

    @registry.on("user.*")
    async def prefix(event, context): ...

    @registry.on("airtable.sync.*", "airtable.*")
    def twice(event, context): ...

    return registry


@pytest.mark.parametrize(
    ("event_type", "expected"),
    [
        ("user.created", ["exact", "prefix"]),
        ("user.deleted", ["prefix"]),
        ("user.profile.updated", ["prefix"]),
        ("users.created", []),
        ("airtable.sync.requested", ["twice"]),
        ("airtable.updated", ["twice"]),
        ("airtable", []),
    ],
)
def test_an_event_finds_every_handler_of_its_type_once(registry, event_type, expected):
    assert names(registry, event_type) == expected


def test_a_star_matches_everything(registry):
    @registry.on("*")
    async def all_of_them(event, context): ...

    assert names(registry, "billing.paid") == ["all_of_them"]


def test_two_handlers_of_one_name_stay_apart(registry):
    def exact(event, context): ...

    registry.on("user.created")(exact)

    assert names(registry, "user.created") == ["exact", "prefix", "exact_2"]


def test_an_unmatched_event_has_the_fallback_only(registry):
    @registry.on_unmatched
    async def fallback(event, context): ...

    assert (names(registry, "billing.paid"), [h.name for h in registry.unmatched]) == (
        [],
        ["fallback"],
    )


@pytest.mark.parametrize("pattern", ["(a+)+$", "user*", "us*r.created", "", ".*", "User.created"])
def test_a_pattern_that_is_no_type_prefix_or_star_is_refused(registry, pattern):
    with pytest.raises(SettingsError, match="not an event pattern"):
        registry.on(pattern)


def test_a_hostile_type_costs_no_time(registry):
    began = time.thread_time()

    list(patterns_of("a" * 100_000 + "!"))

    assert time.thread_time() - began < 0.05


def test_the_built_in_handlers_cover_the_types_of_the_specification():
    registry = load_handlers(Settings())

    covered = ["user.created", "workspace.updated", "airtable.sync.requested", "job.failed"]
    assert all(registry.matching(name) for name in [*covered, "notification.send"])
    assert registry.matching("billing.paid") == ()
    assert len(registry.unmatched) == 1


def test_a_handlers_module_that_is_missing_is_named():
    with pytest.raises(SettingsError, match="no_such_module"):
        load_handlers(Settings(handlers="no_such_module"))
