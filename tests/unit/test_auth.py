"""The guard, asked directly: who gets in, who does not, and what an attacker hears."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.permissions import Access, policies_of
from app.access.sessions import SESSION_COOKIE, SESSION_S
from app.access.throttle import FAILURES_PER_MINUTE, Throttle
from app.actions import Actor
from app.auth import Guard, Refusal, Request, safe_next
from app.errors import SettingsError
from app.server import check_access
from app.settings import Settings

KEY = "k" * 40


@pytest.fixture
def keyed() -> Guard:
    return Guard(Settings(api_key=KEY))


@pytest.fixture
def unkeyed() -> Guard:
    return Guard(Settings())


def ask(
    path: str = "/stats", method: str = "GET", peer: str = "127.0.0.1", **headers: str
) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method=method, path=path, headers={"host": "localhost:8009", **named}, peer=peer)


def cookie_of(guard: Guard, name: str = "ada") -> str:
    value = guard.session(Actor(name=name, role="admin"))
    return f"{SESSION_COOKIE}={value}"


def status(answer: object) -> int:
    return answer.status if isinstance(answer, Refusal) else 200


def test_without_a_key_only_this_machine_under_its_own_name_is_answered(unkeyed: Guard) -> None:
    assert unkeyed.decide(ask()) == Actor(name="local", role="admin")
    assert unkeyed.decide(ask(host="[::1]:8009")) == Actor(name="local", role="admin")
    assert status(unkeyed.decide(ask(peer="10.0.0.7"))) == 403
    assert status(unkeyed.decide(ask(host="rebound.example:8009"))) == 403
    assert status(unkeyed.decide(ask(host="127.0.0.1.evil.example"))) == 403
    assert status(unkeyed.decide(ask("/health", host="evil.example"))) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x_api_key": ""},
        {"x_api_key": "wrong"},
        {"x_api_key": KEY + "x"},
        {"x_api_key": KEY[:-1]},
        {"x_api_key": f"{KEY},{KEY}"},
        {"x_api_key": "é"},
        {"x_api_key": "\x00"},
        {"x_api_key": "x" * 1_000_000},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Bearer {KEY}", "x_api_key": "wrong"},
        {"cookie": f"{SESSION_COOKIE}=abc"},
        {"cookie": f"{SESSION_COOKIE}=é.é"},
        {"cookie": f"{SESSION_COOKIE}=e30.e30"},
        {"cookie": "a=b; ;;=\x00"},
    ],
)
def test_wrong_credentials_hear_401_and_never_500(keyed: Guard, headers: dict[str, str]) -> None:
    answer = keyed.decide(ask(**headers))

    assert status(answer) == 401


def test_the_right_key_opens_by_either_header(keyed: Guard) -> None:
    for headers in (
        {"x_api_key": KEY},
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY}"},
    ):
        assert keyed.decide(ask(**headers)) == Actor(name="api-key", role="admin")


def test_a_key_in_the_query_opens_nothing(keyed: Guard) -> None:
    asked = replace(ask(), query=f"api_key={KEY}&X-API-Key={KEY}")

    assert status(keyed.decide(asked)) == 401


def test_a_key_that_is_not_ascii_is_compared_by_its_bytes() -> None:
    guard = Guard(Settings(api_key="schlüssel-ключ"))
    as_sent = "schlüssel-ключ".encode().decode("latin-1")

    assert isinstance(guard.decide(ask(x_api_key=as_sent)), Actor)


def test_health_and_login_are_open_and_nothing_else_is() -> None:
    open_paths = {policy.pattern.pattern for policy in policies_of("/health")}
    assert open_paths
    for path in ("/health", "/health/live", "/health/ready", "/login", "/favicon.ico"):
        assert {policy.access for policy in policies_of(path)} == {Access.OPEN}


@pytest.mark.parametrize(
    "path",
    ["//health", "/health/", "/health/../stats", "/%68ealth", "/health%2f..%2fstats", "/HEALTH",
     "/health/live/x", "/login/../stats", "http://localhost/health", "", "*"],
)  # fmt: skip
def test_a_disguised_path_is_not_the_open_one(keyed: Guard, path: str) -> None:
    assert status(keyed.decide(ask(path))) == 401


def test_an_unknown_path_or_method_is_404_or_405_for_those_inside(keyed: Guard) -> None:
    assert status(keyed.decide(ask("/components/json/x", x_api_key=KEY))) == 404
    assert status(keyed.decide(ask("/liveness", x_api_key=KEY))) == 404
    refused = keyed.decide(ask("/stats", "DELETE", x_api_key=KEY))
    assert isinstance(refused, Refusal)
    assert refused.status == 405
    assert refused.headers["Allow"] == "GET, HEAD"


async def test_a_session_opens_for_twelve_hours_and_not_after_logout() -> None:
    now = [1_000_000.0]
    guard = Guard(Settings(api_key=KEY), clock=lambda: now[0])
    cookie = cookie_of(guard)

    assert guard.decide(ask(cookie=cookie)) == Actor(name="ada", role="admin")
    now[0] += SESSION_S - 1
    assert isinstance(guard.decide(ask(cookie=cookie)), Actor)
    now[0] += 2
    assert status(guard.decide(ask(cookie=cookie))) == 401

    other = cookie_of(guard)
    await guard.logout(other)
    assert status(guard.decide(ask(cookie=other))) == 401


def test_a_session_of_another_key_or_with_one_letter_changed_opens_nothing(keyed: Guard) -> None:
    foreign = cookie_of(Guard(Settings(api_key="z" * 40)))
    good = cookie_of(keyed)
    body, _, signature = good.partition(".")

    assert status(keyed.decide(ask(cookie=foreign))) == 401
    assert status(keyed.decide(ask(cookie=f"{body}x.{signature}"))) == 401
    assert status(keyed.decide(ask(cookie=f"{body}.{signature[:-2]}AA"))) == 401


def test_a_viewer_may_look_and_not_touch(keyed: Guard) -> None:
    cookie = f"{SESSION_COOKIE}={keyed.session(Actor(name='v', role='viewer'))}"
    own = {"cookie": cookie, "origin": "http://localhost:8009"}

    assert isinstance(keyed.decide(ask("/stats", **own)), Actor)
    assert status(keyed.decide(ask("/jobs/async-processing", "POST", **own))) == 403


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"origin": "http://localhost:8009"}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://localhost:8009.evil.example"}, False),
        ({"origin": "http://localhost:3000"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"origin": "http://localhost:8009", "sec_fetch_site": "cross-site"}, False),
    ],
)
def test_a_change_riding_on_a_cookie_must_come_from_our_own_page(
    keyed: Guard, headers: dict[str, str], allowed: bool
) -> None:
    answer = keyed.decide(
        ask("/queues/async-processing/pause", "POST", cookie=cookie_of(keyed), **headers)
    )

    assert isinstance(answer, Actor) is allowed
    assert allowed or status(answer) == 403


def test_without_a_key_a_foreign_page_cannot_change_anything(unkeyed: Guard) -> None:
    path = "/queues/async-processing/pause"

    assert isinstance(unkeyed.decide(ask(path, "POST")), Actor)
    assert status(unkeyed.decide(ask(path, "POST", origin="http://evil.example"))) == 403
    assert status(unkeyed.decide(ask(path, "POST", sec_fetch_site="cross-site"))) == 403


def test_a_websocket_needs_credentials_and_our_own_origin(keyed: Guard, unkeyed: Guard) -> None:
    path = "/admin/queues/ws"
    own, evil = "http://localhost:8009", "http://good.example.evil.com"

    assert status(keyed.decide(ask(path, upgrade="websocket", origin=own))) == 401
    cookie = cookie_of(keyed)
    assert isinstance(
        keyed.decide(ask(path, upgrade="websocket", origin=own, cookie=cookie)), Actor
    )
    assert status(keyed.decide(ask(path, upgrade="websocket", origin=evil, cookie=cookie))) == 403
    assert status(keyed.decide(ask(path, upgrade="websocket", cookie=cookie))) == 403
    assert status(unkeyed.decide(ask(path, upgrade="websocket", origin=evil))) == 403


def test_a_page_without_session_leads_to_the_login_and_back(keyed: Guard) -> None:
    answer = keyed.decide(replace(ask("/admin/queues", accept="text/html"), query="tab=dead"))

    assert isinstance(answer, Refusal)
    assert answer.status == 302
    assert answer.headers["Location"] == "/login?next=%2Fadmin%2Fqueues%3Ftab%3Ddead"


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil",
        "javascript:x",
        "",
        "/a\r\nX: y",
        "/\t/evil",
    ],
)
def test_the_way_back_never_leaves_this_server(target: str) -> None:
    assert safe_next(target) == "/admin/queues"


def test_guessing_is_throttled_per_address_and_known_callers_are_not_locked_out(
    keyed: Guard,
) -> None:
    assert isinstance(keyed.decide(ask(x_api_key=KEY, peer="10.0.0.1")), Actor)

    answers = [keyed.decide(ask(x_api_key=f"guess{n}", peer="10.0.0.1")) for n in range(50)]
    statuses = [status(answer) for answer in answers]

    assert statuses == [401] * FAILURES_PER_MINUTE + [429] * (50 - FAILURES_PER_MINUTE)
    last = answers[-1]
    assert isinstance(last, Refusal)
    assert int(last.headers["Retry-After"]) > 0
    assert isinstance(keyed.decide(ask(x_api_key=KEY, peer="10.0.0.1")), Actor)
    assert isinstance(keyed.decide(ask(x_api_key=KEY, peer="10.0.0.2")), Actor)


def test_a_throttled_address_cannot_learn_that_a_guess_was_right(keyed: Guard) -> None:
    for n in range(FAILURES_PER_MINUTE):
        keyed.decide(ask(x_api_key=f"guess{n}", peer="10.0.0.3"))

    assert status(keyed.decide(ask(x_api_key=KEY, peer="10.0.0.3"))) == 429


def test_the_throttle_forgets_after_a_minute_and_never_grows_without_bound() -> None:
    now = [0.0]
    throttle = Throttle(limit=2, clock=lambda: now[0])
    throttle.failed("a")
    throttle.failed("a")
    assert throttle.wait_s("a") == 60
    now[0] = 61.0
    assert throttle.wait_s("a") == 0

    for n in range(10_050):
        throttle.failed(f"address-{n}")
    assert len(throttle) == 10_000


@pytest.mark.parametrize("door", ["header", "login"])
def test_who_waits_what_429_says_is_looked_at_again_and_who_waits_less_is_not(
    keyed: Guard, door: str
) -> None:
    """
    The failures lie apart by no whole seconds: a Retry-After cut to whole ones would be too short.
    """
    now = [1000.0]
    keyed.throttle = Throttle(clock=lambda: now[0])

    def offer(key: str) -> Refusal | None:
        if door == "login":
            answer: object = keyed.login(key, "ada", "10.0.0.4")
        else:
            answer = keyed.decide(ask(x_api_key=key, peer="10.0.0.4"))
        return answer if isinstance(answer, Refusal) else None

    for n in range(FAILURES_PER_MINUTE):
        offer(f"guess{n}")
        now[0] += 0.7
    refused = offer(KEY)
    assert refused is not None
    assert refused.status == 429
    again_s = int(refused.headers["Retry-After"])

    now[0] += again_s - 1
    too_early = offer(KEY)
    now[0] += 1
    in_time = offer(KEY)

    assert too_early is not None
    assert too_early.status == 429
    assert in_time is None


@given(
    failures=st.lists(
        st.tuples(st.integers(0, 8 * 90), st.sampled_from("abc"), st.sampled_from("kl")),
        max_size=60,
    )
)
def test_the_wait_told_is_the_shortest_that_is_enough(
    failures: list[tuple[int, str, str]],
) -> None:
    """
    From any address, for any key, besieged or not. Times are eighths of a second, so that sums are exact.
    """
    now = [0.0]
    throttle = Throttle(limit=6, clock=lambda: now[0], guesses=9)
    for eighths, address, key in sorted(failures):
        now[0] = eighths / 8
        throttle.failed(address, key)
    ended = now[0]

    for address, key in product("abc", "kl"):
        now[0] = ended
        told = throttle.wait_s(address, key)
        now[0] = ended + told
        assert throttle.wait_s(address, key) == 0
        if told:
            now[0] = ended + told - 1
            assert throttle.wait_s(address, key) > 0


def test_the_key_is_in_no_attribute_of_the_guard(keyed: Guard) -> None:
    assert KEY not in repr(vars(keyed))


def test_a_server_others_can_reach_needs_a_key() -> None:
    with pytest.raises(SettingsError, match="API_KEY"):
        check_access(Settings(queue_ui_host="0.0.0.0"))
    with pytest.raises(SettingsError, match="REQUIRE_API_KEY"):
        check_access(Settings(require_api_key=True))
    check_access(Settings())
    check_access(Settings(queue_ui_host="0.0.0.0", api_key=KEY))


def test_a_typed_name_passes_for_nobody_a_provider_vouches_for() -> None:
    """
    With a list of a provider's identities, who logs in by the one key is shown with it, whatever they type.
    """
    plain = Guard(Settings(api_key=KEY))
    listed = Guard(
        Settings(
            api_key=KEY,
            oauth_provider="github",
            oauth_key="id",
            oauth_secret="s" * 20,
            oauth_roles="ann@example.com=admin",
        )
    )

    def shown(guard: Guard) -> str:
        session = guard.login(KEY, "ann@example.com", "127.0.0.1")
        assert isinstance(session, str)
        actor = guard.decide(ask(cookie=f"{SESSION_COOKIE}={session}"))
        assert isinstance(actor, Actor)
        return actor.name

    assert shown(plain) == "ann@example.com"
    assert shown(listed) != "ann@example.com"
    assert shown(listed).startswith("ann@example.com (key ")
