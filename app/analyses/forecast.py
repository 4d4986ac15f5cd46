"""When a queue will be empty, with a band; or that it will not be. Pure.

The rate at which the backlog shrinks is service minus arrivals, taken from the last minutes of
history. The band comes from resampling blocks of those minutes (moving block bootstrap, Künsch,
"The jackknife and the bootstrap for general stationary observations", Ann. Statist. 17 (1989)), so
that minutes that belong together stay together.
"""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

#: minutes of history a forecast rests on at most, and at least
MINUTES: Final = 30
LEAST_MINUTES: Final = 3
#: minutes that stay together when resampled
BLOCK: Final = 5
RESAMPLED: Final = 2_000
#: share of the resampled answers inside the band
BAND: Final = 0.80
#: s beyond which a forecast says "not": nobody plans on it
HORIZON_S: Final = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """When the backlog is gone. Durations in seconds, rates per second; NaN is unknown."""

    backlog: float  #: jobs waiting or running now
    arrivals_per_s: float
    service_per_s: float  #: ended per second, with the workers asked about
    workers: float
    drains: bool | None  #: None: not enough history to say
    empty_in_s: float = math.nan  #: median; infinite when it will not drain
    low_s: float = math.nan  #: the band: BAND of the resampled answers lie between
    high_s: float = math.nan  #: infinite: in more than a tenth of the cases it does not drain
    drains_share: float = math.nan  #: share of the resampled answers in which it drains
    minutes: int = 0  #: minutes of history used
    reason: str = ""  #: why it is not known, or will not drain

    @property
    def sentence(self) -> str:
        """The forecast in words."""
        if self.drains is None:
            return f"not known yet: {self.reason}"
        if self.backlog == 0:
            return "empty now"
        if not self.drains:
            return f"will not drain: {self.reason}"
        band = f"{_span(self.low_s)} to {_span(self.high_s)}"
        return f"empty in {_span(self.empty_in_s)} ({BAND:.0%}: {band})"


def drain_forecast(
    minutes: pd.DataFrame,
    *,
    backlog: float,
    workers: float,
    what_if_workers: float | None = None,
    slots: float = math.nan,
    busy: float = math.nan,
    seed: int = 0,
) -> Forecast:
    """Forecast from *minutes* (TIER_COLUMNS of one queue at ``step_s`` 60, oldest first).

    *backlog*: waiting and running jobs now; *workers*: those that serve the queue now;
    *what_if_workers*: how many there would be: service grows in proportion while every slot is busy
    (that is when more workers help), measured by *busy* of *slots*. Arrivals are the counted ones,
    or, where stock producers count nothing, what the change of ``held`` and the endings imply.
    """
    known = minutes[minutes["samples"] > 0].tail(MINUTES)
    arrivals, service = _flows(known)
    asked = workers if what_if_workers is None else what_if_workers
    used = len(service)
    base: dict[str, Any] = {"backlog": backlog, "workers": asked, "minutes": used}
    if math.isnan(backlog) or used < LEAST_MINUTES:
        return Forecast(
            **base,
            arrivals_per_s=math.nan,
            service_per_s=math.nan,
            drains=None,
            reason=f"{used} minute{'' if used == 1 else 's'} of history, {LEAST_MINUTES} are needed",
        )
    if asked <= 0:
        return Forecast(
            **base,
            arrivals_per_s=float(arrivals.mean()) / 60,
            service_per_s=0.0,
            drains=backlog == 0,
            empty_in_s=0.0 if backlog == 0 else math.inf,
            drains_share=float(backlog == 0),
            reason="no worker serves it",
        )
    if workers > 0 and asked != workers:
        service = service * _speed_up(asked / workers, busy, slots)
    net = _resampled(service - arrivals, np.random.default_rng(seed)) / 60
    with np.errstate(divide="ignore"):
        empty = np.where(net > 0, backlog / np.where(net > 0, net, 1.0), np.inf)
    empty = np.where(empty > HORIZON_S, np.inf, empty)
    mean_net = float((service - arrivals).mean()) / 60
    tail = (1 - BAND) / 2
    low, middle, high = (
        float(np.quantile(empty, q, method="nearest")) for q in (tail, 0.5, 1 - tail)
    )
    if backlog == 0:
        low = middle = high = 0.0
    return Forecast(
        **base,
        arrivals_per_s=float(arrivals.mean()) / 60,
        service_per_s=float(service.mean()) / 60,
        drains=backlog == 0 or math.isfinite(middle),
        empty_in_s=middle,
        low_s=low,
        high_s=high,
        drains_share=float(np.isfinite(empty).mean()),
        reason=""
        if math.isfinite(middle)
        else f"{abs(mean_net) * 60:.3g} jobs a minute more arrive than end"
        if mean_net <= 0
        else "it would take longer than 30 days",
    )


def _flows(
    known: pd.DataFrame,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Arrivals and endings of each minute."""
    ended = known[["complete", "dead", "aborted"]].fillna(0.0).sum(axis=1).to_numpy(dtype="float64")
    accepted = known["accepted"].fillna(0.0).to_numpy(dtype="float64")
    held = known["held"].to_numpy(dtype="float64")
    if len(held) < 2:
        return accepted, ended
    implied = np.diff(held, prepend=held[0]) + ended
    implied[0] = accepted[0]
    uncounted = (
        np.nansum(implied[1:]) > 1.2 * accepted[1:].sum() + 5
    )  # stock producers count nothing
    return (np.maximum(0.0, np.nan_to_num(implied)) if uncounted else accepted), ended


def _speed_up(ratio: float, busy: float, slots: float) -> float:
    """How service changes when workers do: fewer always cost; more help only what was saturated."""
    share = busy / slots if slots and not math.isnan(busy / slots) else 1.0
    if ratio >= 1:
        return 1 + (ratio - 1) * min(1.0, share)
    return min(1.0, ratio / max(share, 1e-9))


def _resampled(
    values: npt.NDArray[np.float64], random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Means of *values*, block by block drawn again."""
    count = len(values)
    block = min(BLOCK, count)
    blocks = -(-count // block)
    starts = random.integers(0, count - block + 1, (RESAMPLED, blocks))
    places = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLED, -1)[:, :count]
    means: npt.NDArray[np.float64] = values[places].mean(axis=1)
    return means


def _span(seconds: float) -> str:
    if math.isinf(seconds):
        return "never"
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, rest = divmod(minutes, 60)
    days, left = divmod(hours, 24)
    if days:
        return f"{days} d {left} h"
    return f"{hours} h {rest:02d} m" if hours else f"{rest} m"
