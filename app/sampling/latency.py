"""What latency was lately, per queue: exact from the runs at hand, else from minute histograms."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from app.analyses.percentiles import exact_s, quantiles_s, split_minute
from app.records import JobRun

#: runs kept per queue for the exact percentiles
RUNS_KEPT: Final = 1000
#: percentiles speak about the runs of this long
WINDOW_MS: Final = 60_000
QUANTILES: Final = (0.50, 0.95)


class Latency:
    """Wait and run times of one queue's last minute."""

    def __init__(self) -> None:
        self.histogram: Mapping[str, int] = {}
        self._runs: npt.NDArray[np.float64] = np.empty((3, 0))  # finished ms, wait s, run s
        self._forgot_ms = 0.0  #: a run that finished then is no longer in ``_runs``

    def add(self, runs: Sequence[JobRun], *, skipped: bool = False) -> None:
        """Take in new runs, oldest first; *skipped*: there were more of them than were read."""
        if not runs:
            return
        if skipped:
            self._forgot_ms = runs[0].finished_ms
        new = np.array([(r.finished_ms, r.wait_s, r.runtime_s) for r in runs], "float64").T
        joined = np.concatenate((self._runs, new), axis=1)
        overflow = joined.shape[1] - RUNS_KEPT
        if overflow > 0:
            if self._runs.shape[1]:
                last = min(overflow, self._runs.shape[1]) - 1
                self._forgot_ms = max(self._forgot_ms, float(self._runs[0, last]))
            joined = joined[:, overflow:]
        self._runs = joined

    def row(self, now_ms: float) -> dict[str, float]:
        """Percentiles at *now_ms*: exact when all runs of the window are at hand, else estimated.

        The estimate comes from the histograms of this minute and the one before and is within
        records.BUCKET_ERROR of the truth.
        """
        since = now_ms - WINDOW_MS
        if self._forgot_ms > since and self.histogram:
            counts = split_minute(self.histogram)
            wait = quantiles_s(counts.wait, QUANTILES)
            run = quantiles_s(counts.run, QUANTILES)
        else:
            recent = self._runs[:, self._runs[0] > since]
            wait, run = exact_s(recent[1], QUANTILES), exact_s(recent[2], QUANTILES)
        return {
            "wait_p50_s": wait[0],
            "wait_p95_s": wait[1],
            "run_p50_s": run[0],
            "run_p95_s": run[1],
        }
