"""Who may call what: the one table of paths, methods and roles. A path that is not in it does not exist.

Every route needs a line here; ``tests/integration/test_routes.py`` walks the routes of a running
server and names the ones without, and the lines without a route.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from app.pages.address import paths


class Access(IntEnum):
    """What a route asks of whoever calls it; each includes the ones before."""

    OPEN = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may call the paths that match *pattern* completely, with which methods."""

    pattern: re.Pattern[str]
    methods: frozenset[str]
    access: Access


_READ: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})
_NAME: Final = r"[^/]+"
_PAGES: Final = "(?:" + "|".join(path.lstrip("/") for path in paths()) + ")"


def _policy(pattern: str, methods: frozenset[str], access: Access) -> Policy:
    return Policy(re.compile(pattern), methods, access)


POLICIES: Final = (
    # without a key: what a load balancer asks, and the door itself
    _policy(r"/health(/live|/ready)?", _READ, Access.OPEN),
    _policy(r"/login", _READ | _POST, Access.OPEN),
    _policy(r"/login/oauth", frozenset({"GET"}), Access.OPEN),
    # pages, their websocket and their scripts
    _policy(r"/", _READ, Access.VIEWER),
    _policy(rf"/(dashboard|{_PAGES})/?", _READ, Access.VIEWER),
    _policy(rf"/(dashboard|{_PAGES})/(ws|autoload\.js)", _READ, Access.VIEWER),
    _policy(r"/dashboard/metadata", _READ, Access.VIEWER),
    _policy(rf"(/dashboard|/{_PAGES}|/admin)?/static/.+", _READ, Access.VIEWER),
    _policy(r"/admin/assets/[\w.-]+", _READ, Access.VIEWER),
    _policy(r"/favicon\.ico", _READ, Access.OPEN),
    _policy(r"/logout", _POST, Access.VIEWER),
    # reading
    _policy(r"/(stats|metrics|doctor|openapi\.json|docs)", _READ, Access.VIEWER),
    _policy(r"/docs/assets/[\w.-]+", _READ, Access.VIEWER),
    _policy(rf"/jobs(/{_NAME}){{0,2}}", _READ, Access.VIEWER),
    _policy(rf"/queues(/{_NAME})?", _READ, Access.VIEWER),
    _policy(rf"/jobs/{_NAME}/{_NAME}/why", _READ, Access.VIEWER),
    _policy(rf"/queues/{_NAME}/(forecast|changes)", _READ, Access.VIEWER),
    _policy(rf"/(history|analyses)/{_NAME}", _READ, Access.VIEWER),
    _policy(r"/(annotations|foreign)", _READ, Access.VIEWER),
    _policy(r"/incident", frozenset({"GET"}), Access.VIEWER),
    _policy(rf"/dead-letters(/{_NAME}){{0,2}}", _READ, Access.VIEWER),
    _policy(rf"/dead-letters/causes/{_NAME}/explain", _READ, Access.VIEWER),
    _policy(r"/alerts(/rules)?", _READ, Access.VIEWER),
    _policy(r"/alerts/backtest", _POST, Access.VIEWER),
    _policy(rf"/(events|workers|audit|frames|frames/{_NAME})", _READ, Access.VIEWER),
    _policy(rf"/runs/{_NAME}", _READ, Access.VIEWER),
    _policy(rf"/operations(/{_NAME})?", _READ, Access.VIEWER),
    _policy(rf"/streams(/{_NAME}(/(groups|entries))?)?", _READ, Access.VIEWER),
    _policy(rf"/streams/{_NAME}/(entries|statuses)/{_NAME}", _READ, Access.VIEWER),
    _policy(rf"/streams/{_NAME}/groups/{_NAME}/(pending|consumers)", _READ, Access.VIEWER),
    _policy(r"/triggers", _READ, Access.VIEWER),
    _policy(r"/triggers/test", _POST, Access.VIEWER),
    _policy(rf"/notifications/{_NAME}", frozenset({"GET"}), Access.VIEWER),
    # changing
    _policy(rf"/jobs/{_NAME}", _POST, Access.OPERATOR),
    _policy(rf"/jobs/{_NAME}/{_NAME}/(cancel|abort|promote|reschedule)", _POST, Access.OPERATOR),
    _policy(rf"/queues/{_NAME}/(pause|resume|clean|concurrency)", _POST, Access.OPERATOR),
    _policy(rf"/dead-letters/{_NAME}/{_NAME}/(retry|discard|undo|archive)", _POST, Access.OPERATOR),
    _policy(r"/(deploys|foreign)", _POST, Access.OPERATOR),
    _policy(rf"/dead-letters/causes/{_NAME}", _POST, Access.OPERATOR),
    _policy(rf"/alerts/{_NAME}/(ack|silence)", _POST, Access.OPERATOR),
    _policy(
        rf"/streams/{_NAME}/groups/{_NAME}/pending/{_NAME}/(claim|ack)", _POST, Access.OPERATOR
    ),
    _policy(rf"/streams/{_NAME}/groups/{_NAME}/pending/{_NAME}/delete", _POST, Access.ADMIN),
    _policy(r"/operations", _POST, Access.OPERATOR),
    _policy(rf"/operations/{_NAME}/(pause|resume|abort)", _POST, Access.OPERATOR),
    _policy(r"/events", _POST, Access.OPERATOR),
    _policy(rf"/notifications/{_NAME}", _POST, Access.OPERATOR),
)

#: routes of Panel and Bokeh that stay closed for everyone: they import modules and build documents
CLOSED: Final = (r"/components/.*", r"/liveness", r"/(dashboard/)?rest/.*", r"/admin")

ROLE_ACCESS: Final[Mapping[str, Access]] = {
    "viewer": Access.VIEWER,
    "operator": Access.OPERATOR,
    "admin": Access.ADMIN,
}

#: longer than any path of ours; what is remembered per path stays small
MAX_PATH_CHARS: Final = 1_024
_DISGUISED: Final = re.compile(r"%(2f|5c|2e|00)|\\|/\.\.?(/|$)", re.IGNORECASE)


def policies_of(path: str) -> tuple[Policy, ...]:
    """Return the policies of *path*, the deployment's prefix removed; empty: no such path.

    A path that would be another one after decoding (encoded slash, dot, backslash, NUL) is none.
    """
    if len(path) > MAX_PATH_CHARS:
        return ()
    return _policies_of(path)


@functools.lru_cache(maxsize=1_024)
def _policies_of(path: str) -> tuple[Policy, ...]:
    if _DISGUISED.search(path):
        return ()
    return tuple(policy for policy in POLICIES if policy.pattern.fullmatch(path))
