"""Keys guessed, timed and malformed. Rows S7 to S9 of FAULTS.md."""

import statistics
import time
from collections import Counter

import pytest

from app import keys
from app.auth import Guard, Request
from app.settings import Settings
from tests.faults.conftest import Row
from tests.faults.door_rig import (
    API_KEY,
    Door,
)  # fmt: skip
from tests.faults.rig import sized


@pytest.mark.row("S7")
def test_guessing_is_throttled_by_address_and_known_users_are_not_locked_out(
    door: Door, row: Row
) -> None:
    """
    From one address, from many, and with a forged X-Forwarded-For, by header and by login.
    """
    right = {"X-API-Key": API_KEY}
    assert door.ask("GET", "/stats", right, source="127.0.30.1").status == 200
    guesses, addresses, each = sized((10_000, 50, 40), (300, 12, 14))
    one = Counter(
        door.ask("GET", "/stats", {"X-API-Key": f"guess{n}", "X-Forwarded-For": f"10.0.{n % 9}.{n % 250}"},
                 source="127.0.30.1").status
        for n in range(guesses)
    )  # fmt: skip
    known = door.ask("GET", "/stats", right, source="127.0.30.1").status
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": door.origin}
    many = Counter(
        door.ask(
            "POST", "/login", form, f"key=guess{n}".encode(), source=f"127.0.31.{1 + n % addresses}"
        ).status
        for n in range(addresses * each)
    )
    proxied = Counter(
        door.ask("GET", "/stats", {"X-API-Key": f"g{n}", "X-Forwarded-For": f"evil, 10.9.9.{1 + n % 3}"},
                 source="127.0.0.2").status
        for n in range(60)
    )  # fmt: skip
    with door.redis() as queue:
        told = [line for _, line in queue.xrange(keys.AUDIT) if "keys_guessed" in line["body"]]

    row.figure(one_address=dict(one), many_addresses=dict(many), by_proxy=dict(proxied),
               known_user=known, audit_lines=len(told))  # fmt: skip
    assert one[401] <= 10
    assert many[401] <= min(addresses * 10, 100 + addresses * 3)
    assert proxied[401] <= 30
    assert set(one) | set(many) | set(proxied) <= {401, 429}
    assert known == 200
    assert 1 <= len(told) <= 20


def _mann_whitney_p(left: list[float], right: list[float]) -> float:
    """Two-sided p of the rank-sum test, normal approximation (Mann and Whitney 1947)."""
    ranked = sorted([(value, 0) for value in left] + [(value, 1) for value in right])
    rank_sum, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        rank = (at + end + 1) / 2
        rank_sum += rank * sum(1 for _, side in ranked[at:end] if side == 0)
        at = end
    n, m = len(left), len(right)
    u = rank_sum - n * (n + 1) / 2
    z = (u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5
    return 2 * (1 - statistics.NormalDist().cdf(abs(z)))


@pytest.mark.row("S8")
def test_the_time_of_a_refusal_does_not_tell_how_much_of_a_key_was_right(row: Row) -> None:
    key = "k3y" * 14
    near, far = key[:-1] + "X", "X" + key[1:]
    samples = sized(5_000, 1_500)

    def measured() -> tuple[float, float]:
        guard = Guard(Settings(api_key=key))
        taken: dict[str, list[float]] = {near: [], far: []}
        for number in range(samples):
            for offered in (near, far) if number % 2 else (far, near):
                peer = f"10.{number // 65536}.{number // 256 % 256}.{number % 256}{offered[0]}"
                asked = Request("GET", "/stats", {"host": "h", "x-api-key": offered}, peer)
                guard.throttle._keys = type(guard.throttle._keys)(10**9, time.monotonic)
                began = time.perf_counter_ns()
                guard.admit(asked)
                taken[offered].append(time.perf_counter_ns() - began)
        shift = statistics.median(taken[near]) - statistics.median(taken[far])
        return _mann_whitney_p(taken[near], taken[far]), shift

    # Chance gives p < 0.01 once in a hundred; three times in a row it is not chance.
    rounds = [measured()]
    while rounds[-1][0] <= 0.01 and len(rounds) < 3:
        rounds.append(measured())

    row.figure(samples=samples, p=rounds[-1][0], median_shift_ns=rounds[-1][1], rounds=len(rounds))
    assert rounds[-1][0] > 0.01


@pytest.mark.row("S9")
def test_odd_keys_hear_401_and_never_500(door: Door, row: Row) -> None:
    odd: list[list[tuple[str, str]]] = [
        [("X-API-Key", "é")], [("X-API-Key", "\u20ac\U0001f600")], [("X-API-Key", "")],
        [("X-API-Key", API_KEY), ("X-API-Key", API_KEY)], [("X-API-Key", API_KEY), ("X-API-Key", "x")],
        [("Authorization", f"Bearer {API_KEY}"), ("Authorization", "Bearer x")],
        [("X-API-Key", f"Bearer {API_KEY}")], [("Authorization", API_KEY)],
        [("Authorization", "Bearer"), ("X-API-Key", "")], [("Authorization", f"Basic {API_KEY}")],
        [("Authorization", "Bearer é")], [("X-API-Key", "arqs_" + "0" * 8 + "_" + "é" * 43)],
        [("Cookie", "arqscope_session=" + "A" * 8_000)], [("Cookie", "arqscope_session=\xff.\xff")],
        [("X-API-Key", "x" * 30_000)],
    ]  # fmt: skip
    statuses = [
        door.ask("GET", "/stats", headers, source=f"127.0.40.{n + 1}").status
        for n, headers in enumerate(odd)
    ]
    raw = [
        door.send(b"GET /stats HTTP/1.1\r\nHost: x\r\nX-API-Key: " + value + b"\r\n\r\n", source="127.0.41.1")
        for value in (b"a\x00b", b"\xff\xfe", b"x" * 1_000_000)
    ]  # fmt: skip

    row.figure(tries=len(odd) + len(raw), statuses=sorted(set(statuses)),
               raw=[answer.status for answer in raw])  # fmt: skip
    assert set(statuses) == {401}
    assert [answer.status for answer in raw[:2]] == [400, 401]
    assert raw[2].status == 431
    assert door.ask("GET", "/health/live").status == 200
