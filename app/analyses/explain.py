"""Why a cause strikes: shared arguments, retry odds, other queues, what changed before. Pure.

Statistics are small and local: Fisher's exact test (R. A. Fisher, The Design of Experiments, 1935),
one-sided, by the hypergeometric tail; the step-up procedure of Benjamini and Hochberg ("Controlling
the false discovery rate", JRSS B 57, 1995); Wilson's interval ("Probable inference …", JASA 22, 1927).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import pandas as pd

from app import frames
from app.columns import Schema, flag, moment, number, text, whole

#: below these nothing is said: any share of so few is chance
MIN_FAILURES: Final = 8
MIN_SUCCESSES: Final = 20
#: false discovery rate over all values looked at in one explanation
MAX_Q: Final = 0.001
#: an argument must set failures apart, not only be significant
MIN_LIFT: Final = 2.0
MIN_DIFFERENCE: Final = 0.2
#: values seen less often, in failures and successes together, are not tested
MIN_SEEN: Final = 5
#: s from the first worker of a version on in which first workers of other queues are the same deploy
DEPLOY_S: Final = 900.0
ABSENT: Final = "(absent)"
_Z95: Final = 1.959963984540054

ARGUMENT_COLUMNS: Final = Schema(
    "One row per argument of one job: long form, so that any job may have any argument.",
    item=whole("", "number of the job"),
    argument=text("path of the argument"),
    value=text("its value"),
)
SHARED_COLUMNS: Final = Schema(
    "One row per argument value that sets failures apart, the most telling first.",
    argument=text("path of the argument"),
    value=text("its value"),
    failed_share=number("", "share of the failures that have it"),
    ok_share=number("", "share of the sampled successes that have it"),
    failures=whole("letters", "with this value"),
    successes=whole("jobs", "sampled successes with this value"),
    lift=number("", "failed_share / ok_share; infinite when no success has it"),
    p_value=number("", "Fisher's exact test, one-sided"),
    q_value=number("", "the same, corrected for all values looked at"),
)
ODDS_COLUMNS: Final = Schema(
    "One row per cause.",
    fingerprint=text("hash that letters of one cause share"),
    retries=whole("retries", "that ended"),
    ended_well=whole("retries", "of these, ended well"),
    odds=number("", "share of retries that ended well; NaN: there was none"),
    low=number("", "lower end of Wilson's 95 % interval"),
    high=number("", "upper end of it"),
)
ELSEWHERE_COLUMNS: Final = Schema(
    "One row per queue or stream that knows the cause.",
    source=text("queue or stream"),
    letters=whole("letters", "of the cause there"),
    open=whole("letters", "of these, wait for a decision"),
    functions=text("functions and event types, comma separated"),
    first_seen=moment("when it struck there first"),
    last_seen=moment("when it struck there last"),
    same=flag("whether it is the same fingerprint; else the same error from another place"),
)
CHANGE_COLUMNS: Final = Schema(
    "One row per thing that happened before the cause struck, newest first.",
    at=moment("when it happened"),
    kind=text("deploy, restart or action"),
    what=text("what it was, in words"),
    who=text("who did it"),
    before_s=number("s", "before the first occurrence"),
)


def arguments_frame(items: Iterable[Mapping[str, str]]) -> pd.DataFrame:
    """One row per argument of *items* (``arguments.flat``), numbered from 0; ARGUMENT_COLUMNS."""
    return frames.frame_of(
        (
            {"item": number, "argument": path, "value": value}
            for number, item in enumerate(items)
            for path, value in item.items()
        ),
        ARGUMENT_COLUMNS,
    )


def shared_arguments(
    failed: pd.DataFrame, failures: int, ok: pd.DataFrame, successes: int
) -> pd.DataFrame:
    """Argument values that failures share and successes do not.

    *failed* and *ok* are ARGUMENT_COLUMNS, *failures* and *successes* how many jobs each is of (one
    without arguments has no row). A value is named when its share differs by at least 0.2 and by a
    factor of 2, and Fisher's test, corrected for all values looked at, gives q ≤ 0.001. Returns
    SHARED_COLUMNS; empty below 8 failures or 20 successes.
    """
    if failures < MIN_FAILURES or successes < MIN_SUCCESSES:
        return frames.empty_frame(SHARED_COLUMNS)
    names = {*failed["argument"], *ok["argument"]}
    seen = {"failed": _counts(failed, failures, names), "ok": _counts(ok, successes, names)}
    pairs = sorted(set(seen["failed"]) | set(seen["ok"]))
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        bad, good = seen["failed"].get(pair, 0), seen["ok"].get(pair, 0)
        # chosen by what both have together, which says nothing about which of them has it: the
        # correction below stays valid
        if bad + good < MIN_SEEN or bad + good == failures + successes:
            continue
        rows.append(
            {
                "argument": pair[0],
                "value": pair[1],
                "failed_share": bad / failures,
                "ok_share": good / successes,
                "failures": bad,
                "successes": good,
                "lift": _ratio(bad / failures, good / successes),
                "p_value": fisher_greater(bad, failures, good, successes),
            }
        )
    for row, q in zip(rows, adjusted([row["p_value"] for row in rows]), strict=True):
        row["q_value"] = q
    named = [
        row
        for row in rows
        if row["q_value"] <= MAX_Q
        and row["lift"] >= MIN_LIFT
        and row["failed_share"] - row["ok_share"] >= MIN_DIFFERENCE
    ]
    named.sort(key=lambda row: (row["ok_share"] - row["failed_share"], row["p_value"]))
    return frames.frame_of(named, SHARED_COLUMNS)


def _counts(
    arguments: pd.DataFrame, items: int, names: Iterable[str]
) -> dict[tuple[str, str], int]:
    """How many items have which value; of the arguments *names*, also how many lack them."""
    unique = arguments.drop_duplicates(["item", "argument", "value"])
    groups = unique.groupby(["argument", "value"], sort=False).size()
    counts: dict[tuple[str, str], int] = {}
    for pair, n in groups.items():
        argument, value = cast(tuple[object, object], pair)
        counts[str(argument), str(value)] = int(n)
    having = {str(a): int(n) for a, n in arguments.groupby("argument")["item"].nunique().items()}
    for name in names:
        if having.get(name, 0) < items:
            counts[name, ABSENT] = items - having.get(name, 0)
    return counts


def _ratio(one: float, other: float) -> float:
    return one / other if other else (math.inf if one else math.nan)


def fisher_greater(a: int, n: int, b: int, m: int) -> float:
    """Chance of at least *a* of *n* where *b* of *m* have it too, were there no difference.

    One-sided exact test: the upper tail of the hypergeometric distribution.
    """
    total, having = n + m, a + b
    base = _log_choose(total, having)
    chance = 0.0
    for k in range(a, min(n, having) + 1):
        if having - k > m:
            continue
        chance += math.exp(_log_choose(n, k) + _log_choose(m, having - k) - base)
    return min(1.0, chance)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's q-values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__, reverse=True)
    q_values, least = [1.0] * len(p_values), 1.0
    for place, index in enumerate(order):
        rank = len(p_values) - place
        least = min(least, p_values[index] * len(p_values) / rank)
        q_values[index] = least
    return q_values


def wilson(successes: int, trials: int, z: float = _Z95) -> tuple[float, float]:
    """Interval of a share, 95 % by default; (0, 1) of nothing."""
    if trials <= 0:
        return 0.0, 1.0
    share, z2 = successes / trials, z * z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def retry_odds(letters: pd.DataFrame) -> pd.DataFrame:
    """How often retries of each cause ended well. *letters* needs fingerprint, state, redrives.

    A letter's last retry ended well when it is resolved; those before it failed; one under way counts
    for nothing. Returns ODDS_COLUMNS, most retries first.
    """
    rows: list[dict[str, Any]] = []
    for fingerprint, part in letters.groupby("fingerprint", sort=False):
        resolved = (part["state"] == "resolved") & (part["redrives"] > 0)
        under_way = (part["state"] == "retrying") & (part["redrives"] > 0)
        well = int(resolved.sum())
        retries = int(part["redrives"].sum()) - int(under_way.sum())
        low, high = wilson(well, retries)
        odds = well / retries if retries else math.nan
        rows.append(
            {"fingerprint": fingerprint, "retries": retries, "ended_well": well}
            | {"odds": odds, "low": low, "high": high}
        )
    rows.sort(key=lambda row: -row["retries"])
    return frames.frame_of(rows, ODDS_COLUMNS)


def elsewhere(letters: pd.DataFrame, fingerprint: str) -> pd.DataFrame:
    """Where else the cause strikes: the same fingerprint, then the same error from other code.

    *letters* is DEAD_LETTER_COLUMNS. Returns ELSEWHERE_COLUMNS, same first, then by letters.
    """
    mine = letters[letters["fingerprint"] == fingerprint]
    rows = [
        _place(str(source), part, same=True) for source, part in mine.groupby("source", sort=False)
    ]
    errors = set(zip(mine["error_type"], mine["error"], strict=True))
    told = zip(letters["error_type"], letters["error"], letters["fingerprint"], strict=True)
    alike = letters[[(kind, text) in errors and f != fingerprint for kind, text, f in told]]
    rows += [
        _place(str(source), part, same=False)
        for source, part in alike.groupby("source", sort=False)
    ]
    rows.sort(key=lambda row: (not row["same"], -row["letters"]))
    return frames.frame_of(rows, ELSEWHERE_COLUMNS)


def _place(source: str, part: pd.DataFrame, *, same: bool) -> dict[str, Any]:
    return {
        "source": source,
        "letters": len(part),
        "open": int((part["state"] == "new").sum()),
        "functions": ", ".join(sorted(set(part["name"]))[:10]),
        "first_seen": part["died"].min().timestamp() * 1000,
        "last_seen": part["died"].max().timestamp() * 1000,
        "same": same,
    }


def changes_before(
    changes: pd.DataFrame, first_seen: pd.Timestamp, window_s: float = 3_600.0
) -> pd.DataFrame:
    """What changed in the *window_s* seconds before *first_seen*; CHANGE_COLUMNS, nearest first."""
    before_s = (first_seen - changes["at"]).dt.total_seconds()
    near = changes.assign(before_s=before_s)[(before_s >= 0) & (before_s <= window_s)]
    ordered: pd.DataFrame = near.sort_values("before_s", kind="stable", ignore_index=True)
    return ordered[list(CHANGE_COLUMNS)]


def starts_frame(starts: Iterable[tuple[str, str, str, float]]) -> pd.DataFrame:
    """Worker starts (id, source, version, ms) as changes: a version's first start is a deploy.

    A deploy is told once, at its first worker's start, with the queues that it reached.
    """
    known: set[tuple[str, str]] = set()
    deploys: dict[str, tuple[dict[str, Any], list[str]]] = {}
    rows: list[dict[str, Any]] = []
    for _, source, version, ms in sorted(starts, key=lambda start: start[3]):
        if (source, version) in known:
            what = f"a worker of {source} started, version {version}"
            rows.append({"at": ms, "kind": "restart", "what": what, "who": ""})
            continue
        known.add((source, version))
        row, sources = deploys.get(version, ({"at": -math.inf}, []))
        if ms - row["at"] > DEPLOY_S * 1000:
            row, sources = {"at": ms, "kind": "deploy", "who": ""}, []
            deploys[version] = row, sources
            rows.append(row)
        sources.append(source)
        row["what"] = f"first worker of {in_words(sources)} with version {version}"
    rows.reverse()
    return frames.frame_of(rows, CHANGE_COLUMNS)


def in_words(names: Sequence[str], most: int = 6) -> str:
    """Several names as one: ``a, b and c``; of many the first, and how many more."""
    shown = [*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1]))) if shown else ""
