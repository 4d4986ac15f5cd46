"""The last hour, one row per sample: append-only columns in memory, read without copying."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from app import frames

SPAN_S: Final = 3600


class ColumnLog:
    """Rows appended at the end, the oldest forgotten after *span_s*; a frame is a view, not a copy.

    The buffers are written once per row and replaced, never shifted, when they are full: frames
    handed out before keep seeing what they saw. The first two columns are ``at`` and a name.
    """

    def __init__(self, columns: frames.Columns, span_s: float = SPAN_S) -> None:
        self._columns = columns
        self._at, self._name, *self._numbers = columns
        self._span_us = int(span_s * 1_000_000)
        self._names: list[str] = []
        self._codes: dict[str, int] = {}
        self._length = 0
        self._start = 0
        self._allocate(1024)

    def _allocate(self, capacity: int) -> None:
        kept = slice(self._start, self._length)
        times = np.empty(capacity, "int64")
        codes = np.empty(capacity, "int16")
        numbers = np.empty((len(self._numbers), capacity), "float64")
        if self._length:
            count = self._length - self._start
            times[:count] = self._times[kept]
            codes[:count] = self._name_codes[kept]
            numbers[:, :count] = self._values[:, kept]
            self._length, self._start = count, 0
        self._times: npt.NDArray[np.int64] = times
        self._name_codes: npt.NDArray[np.int16] = codes
        self._values: npt.NDArray[np.float64] = numbers

    def append(self, at_us: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add one sample's rows, taken at *at_us* (epoch µs); a missing number is NaN.

        When the clock was set back, rows of what is now the future are forgotten.
        """
        if self._length and at_us < self._times[self._length - 1]:
            self._length = int(np.searchsorted(self._times[: self._length], at_us))
            self._start = min(self._start, self._length)
            self._allocate(max(1024, 2 * (self._length - self._start)))
        for row in rows:
            if self._length == len(self._times):
                self._allocate(max(1024, 2 * (self._length - self._start)))
            name = frames.printable(row[self._name])
            if name not in self._codes:
                self._codes[name] = len(self._names)
                self._names = [*self._names, name]
            index = self._length
            self._times[index] = at_us
            self._name_codes[index] = self._codes[name]
            self._values[:, index] = [
                math.nan if (value := row.get(column)) is None else value
                for column in self._numbers
            ]
            self._length += 1
        recent = self._times[self._start : self._length]
        self._start += int(np.searchsorted(recent, at_us - self._span_us))

    def frame(self) -> pd.DataFrame:
        """Return the rows of the last *span_s* seconds, oldest first; read-only views."""
        return self.view()()

    def view(self) -> Callable[[], pd.DataFrame]:
        """Return what makes the frame of the rows held now, whenever it is called."""
        kept = slice(self._start, self._length)
        times, codes = self._times[kept], self._name_codes[kept]
        numbers, names = self._values[:, kept], self._names

        def make() -> pd.DataFrame:
            if not len(times):
                return frames.empty_frame(self._columns)
            numbers.flags.writeable = False
            columns: dict[str, Any] = {
                self._at: pd.DatetimeIndex(times.view("datetime64[us]")).tz_localize("UTC"),
                self._name: pd.Categorical.from_codes(codes, categories=pd.Index(names)),
            }
            columns.update(zip(self._numbers, numbers, strict=True))
            return pd.DataFrame(columns, copy=False)

        return make
