"""Every route of a running server has a policy, and every policy a route: asked of the server itself."""

import json
import re
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest

from app.access.permissions import CLOSED, POLICIES, Access, policies_of
from app.api.application import routes
from app.api.strict_json import StrictRoute
from tests.conftest import ROOT
from tests.serving import SMALL_PAGE, start_server, stop

#: appended to the hooks the server runs: it writes down the handlers it would choose from
_DUMP = """

def _rules(router):
    for rule in router.rules:
        target = rule.target
        if hasattr(target, "rules"):
            yield from _rules(target)
        else:
            yield rule.matcher.regex.pattern, getattr(target, "__name__", str(target))


_load = on_server_loaded


def on_server_loaded(server_context):
    import json, pathlib
    from app.server import attached
    _load(server_context)
    found = [rule for one in attached for rule in _rules(one.default_router)]
    pathlib.Path("routes.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def handlers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[tuple[str, str]]]:
    """Pattern and name of every handler of a server that runs."""
    from tests.conftest import start_redis

    redis = start_redis(tmp_path_factory.mktemp("redis"))
    directory = tmp_path_factory.mktemp("server")
    page = directory / "dashboard"
    page.mkdir()
    (page / "app_hooks.py").write_text((ROOT / "app/dashboard/app_hooks.py").read_text() + _DUMP)
    (page / "main.py").write_text(SMALL_PAGE)
    server = start_server(redis, directory)
    stop(server)
    redis.stop()
    found = json.loads((directory / "routes.json").read_text())
    return [(pattern, name) for pattern, name in found]


def _samples(pattern: str) -> list[str]:
    """Paths a Tornado pattern matches, made from its alternatives."""
    text = pattern.rstrip("$").replace("\\", "")
    text = text.replace("(?:/.*)?", "").replace("/?", "")
    text = re.sub(r"\(\?P<\w+>[^)]*\)|\(\.\*\)|\.\*", "x", text)
    found = re.search(r"\(\?:([^()]*)\)", text)
    if found is None:
        return [text or "/"]
    return [
        sample
        for choice in found[1].split("|")
        for sample in _samples(text[: found.start()] + choice + text[found.end() :])
    ]


def test_every_handler_of_the_running_server_has_a_policy_or_is_closed(
    handlers: list[tuple[str, str]],
) -> None:
    missing = [
        (name, path)
        for pattern, name in handlers
        if name != "AsgiHandler"  # its routes are the next test's
        for path in _samples(pattern)
        if not policies_of(path) and not any(re.fullmatch(closed, path) for closed in CLOSED)
    ]

    assert len(handlers) > 15
    assert missing == []


def test_what_panel_leaves_open_has_no_policy(handlers: list[tuple[str, str]]) -> None:
    """
    Component files and the liveness route exist below us; nobody may reach them.
    """
    patterns = " ".join(pattern for pattern, _ in handlers)

    assert "components" in patterns
    for path in ("/components/app/x.js", "/liveness", "/dashboard/rest/x", "/admin"):
        assert policies_of(path) == ()


def api_paths() -> list[tuple[str, str, Any]]:
    """Every method and path of the API, its placeholders filled with each value they may have."""
    found = []
    for route in routes():
        paths = [route.path]
        hints = typing.get_type_hints(route.endpoint)
        for name in re.findall(r"{(\w+)}", route.path):
            hint = hints.get(name)
            values = get_args(hint) if get_origin(hint) is Literal else ("x1",)
            paths = [path.replace(f"{{{name}}}", value) for path in paths for value in values]
        found += [(method, path, route) for path in paths for method in sorted(route.methods)]
    return found


def test_every_route_of_the_api_has_a_policy() -> None:
    """
    A new route fails here until `app/access/permissions.py` says who may call it.
    """
    asked = api_paths()
    missing = [
        f"{method} {path}"
        for method, path, _ in asked
        if not any(method in policy.methods for policy in policies_of(path))
    ]

    assert len(asked) > 30
    assert missing == []


#: asked with a body, and changing nothing
READS_BY_POST = {"/alerts/backtest", "/triggers/test"}


def test_only_health_is_open_and_what_changes_needs_an_operator() -> None:
    for method, path, _ in api_paths():
        access = min(p.access for p in policies_of(path) if method in p.methods)
        if path.startswith("/health"):
            assert access is Access.OPEN
        elif method == "GET" or path in READS_BY_POST:
            assert access >= Access.VIEWER
        else:
            assert access >= Access.OPERATOR


def test_every_policy_is_of_some_route(handlers: list[tuple[str, str]]) -> None:
    """
    A line that stays after its route went would open whatever comes to that address later.
    """
    paths = [path for _, path, _ in api_paths()] + ["/openapi.json"]
    paths += [
        path for pattern, name in handlers if name != "AsgiHandler" for path in _samples(pattern)
    ]
    unused = [p.pattern.pattern for p in POLICIES if not any(map(p.pattern.fullmatch, paths))]

    assert unused == []


def test_every_changing_route_reads_its_body_strictly() -> None:
    loose = [
        path for method, path, route in api_paths()
        if method not in ("GET", "HEAD") and not isinstance(route, StrictRoute)
    ]  # fmt: skip

    assert loose == []
