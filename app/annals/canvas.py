"""The canvas: chunks of any tier put on a regular grid, and the frame of it. Pure."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from app.annals.chunks import Chunk
from app.annals.tiers import COUNTS, HISTOGRAMS, LEVELS, QUANTILES, TIER_COLUMNS
from app.records import BUCKET_GAMMA

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Canvas:
    """A regular grid that chunks are put on; ``frame`` makes a step of all that lies in it.

    Putting only keeps a chunk: the columns of all of them are joined once, for the frame.
    """

    def __init__(self, start_s: int, step_s: int, steps: int) -> None:
        self.start_s, self.step_s, self.steps = start_s, step_s, steps
        self._chunks: list[tuple[Chunk, int, int]] = []

    def put(self, chunk: Chunk, chunk_start_s: int, row_s: int) -> None:
        """Put a chunk whose first place begins at *chunk_start_s*; a place is *row_s* long.

        Chunks are put oldest first.
        """
        if len(chunk.places):
            self._chunks.append((chunk, chunk_start_s, row_s))

    def frame(self, source: str) -> pd.DataFrame:
        """Return the grid as TIER_COLUMNS; a step nobody saw is NaN throughout."""
        begins = _joined([start + row_s * c.places for c, start, row_s in self._chunks], "int64")
        steps = (begins - self.start_s) // self.step_s
        inside = (steps >= 0) & (steps < self.steps)
        seen = np.bincount(steps[inside], minlength=self.steps) > 0
        at = (self.start_s + self.step_s * np.arange(self.steps, dtype="int64")) * 1_000_000
        columns: dict[str, Any] = {
            "at": pd.DatetimeIndex(at.view("datetime64[us]")).tz_localize("UTC"),
            "source": pd.array([source] * self.steps, dtype="str"),
        }
        counts = dict(
            zip(
                COUNTS,
                _joined([c.counts for c, _, _ in self._chunks], "float64", len(COUNTS)),
                strict=True,
            )
        )
        for name, values in counts.items():
            total = np.bincount(steps[inside], values[inside], self.steps)
            columns[name] = np.where(seen, total, np.nan)
        columns |= self._levels(steps, inside, counts["samples"])
        columns["complete_per_s"] = columns["complete"] / self.step_s
        columns["failed_per_s"] = (columns["retried"] + columns["dead"]) / self.step_s
        for kind in HISTOGRAMS:
            columns |= self._quantiles(kind, seen)
        return pd.DataFrame({name: columns[name] for name in TIER_COLUMNS})

    def _levels(
        self, steps: Ints, inside: npt.NDArray[np.bool_], samples: Floats
    ) -> dict[str, Floats]:
        lines = _joined([c.levels for c, _, _ in self._chunks], "float64", len(LEVELS))
        made = {}
        for (name, how), values in zip(LEVELS.items(), lines, strict=True):
            known = inside & ~np.isnan(values)
            where, found = steps[known], values[known]
            level = np.full(self.steps, np.nan)
            if how == "last":
                level[where] = found  # oldest first: the newest stays
            elif how == "max":
                np.fmax.at(level, where, found)
            else:
                weights = np.maximum(samples[known], 1e-9)
                total = np.bincount(where, found * weights, self.steps)
                weight = np.bincount(where, weights, self.steps)
                np.divide(total, weight, out=level, where=weight > 0)
            made[name] = level
        return made

    def _histograms(self, kind: str) -> Floats | None:
        """The histogram of every step, a line each; None when there is nothing of *kind*.

        A group that reaches over the edge of a step is in both: its percentiles speak for either.
        """
        found = [one for one in self._chunks if kind in one[0].histograms]
        if not found:
            return None
        firsts, lasts, offsets = [], [], [0]
        for chunk, start_s, row_s in found:
            since_s = start_s + row_s * (chunk.places // chunk.group * chunk.group) - self.start_s
            firsts.append(since_s // self.step_s)
            lasts.append((since_s + chunk.group * row_s - 1) // self.step_s)
            offsets.append(offsets[-1] + len(since_s))
        first, last = np.concatenate(firsts), np.concatenate(lasts)
        cells = [chunk.histograms[kind] for chunk, _, _ in found]
        row = np.concatenate([one.rows for one in cells]).astype("int64")
        row += np.repeat(offsets[:-1], [len(one.rows) for one in cells])
        bucket = np.concatenate([one.buckets for one in cells]).astype("int64")
        amount = np.concatenate([one.amounts for one in cells]).astype("float64")
        width = int(bucket.max()) + 1
        total = np.zeros(self.steps * width)
        for n in range(int((last - first).max()) + 1):
            step = first + n
            outside = (step > last) | (step < 0) | (step >= self.steps)
            line = np.where(outside, self.steps, step) * width
            total += np.bincount(line[row] + bucket, amount, len(total) + width)[: len(total)]
        return total.reshape(self.steps, width)

    def _quantiles(self, kind: str, seen: npt.NDArray[np.bool_]) -> dict[str, Floats]:
        names = {f"{kind}_{name}_s": quantile for name, quantile in QUANTILES}
        histograms = self._histograms(kind)
        if histograms is None:
            return {name: np.full(self.steps, np.nan) for name in names}
        cumulated = histograms.cumsum(axis=1)
        total = cumulated[:, -1]
        made = {}
        for name, quantile in names.items():
            rank = np.maximum(1, np.ceil(quantile * total))[:, None]
            bucket = (cumulated >= rank).argmax(axis=1)
            value = 2 * BUCKET_GAMMA**bucket / (BUCKET_GAMMA + 1) / 1000
            made[name] = np.where(seen & (total > 0), value, math.nan)
        return made


def _joined(parts: list[npt.NDArray[Any]], kind: str, lines: int = 0) -> npt.NDArray[Any]:
    """Arrays end to end; with *lines*, tables of so many lines side by side."""
    if not parts:
        return np.empty((lines, 0) if lines else 0, kind)
    return np.concatenate(parts, axis=1 if lines else 0).astype(kind, copy=False)
