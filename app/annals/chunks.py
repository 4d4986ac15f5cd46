"""Chunks of history: an hour of minutes or a day of hours as columns, and as few bytes. Pure."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from app.annals.tiers import COUNTS, HISTOGRAMS, LEVELS, TierRow
from app.errors import BadRecord

#: places of a packed hour of minutes, and of a packed day of hours, that share their histograms
MINUTES_GROUP: Final = 5
HOURS_GROUP: Final = 3
_VERSION: Final = 3
#: version, group, places, cells per histogram
_HEAD: Final = struct.Struct("<BBH3I")
#: a level keeps 17 significant bits, five digits: the rest would only be noise to compress
_NOISE: Final = np.uint32(0x7F)
_HALF: Final = np.uint32(0x40)
_MOST: Final = 2**32 - 1

Ints = npt.NDArray[np.int64]


class Cells(NamedTuple):
    """A histogram per row, as one list of cells: row numbers, buckets, amounts."""

    rows: npt.NDArray[np.integer]
    buckets: npt.NDArray[np.integer]
    amounts: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows as columns. Places are numbered from the chunk's start.

    Histograms of *group* places are added up and lie with the first of them that is there:
    percentiles of packed minutes are those of their five minutes, of packed hours those of three.
    """

    places: Ints
    levels: npt.NDArray[np.float32]  #: a line per LEVELS; NaN: nobody saw it
    counts: npt.NDArray[np.uint32]  #: a line per COUNTS
    histograms: dict[str, Cells]
    group: int = 1

    @classmethod
    def of_rows(cls, rows: Mapping[int, TierRow], group: int = 1) -> "Chunk":
        """Make the columns of *rows* by place."""
        places = sorted(rows)
        ordered = [rows[place] for place in places]
        levels = [[row.levels.get(name, np.nan) for row in ordered] for name in LEVELS]
        counts = [[min(row.counts.get(name, 0), _MOST) for row in ordered] for name in COUNTS]
        histograms = {}
        for name in HISTOGRAMS:
            lead: list[int] = []
            buckets: list[int] = []
            amounts: list[int] = []
            leads: dict[int, int] = {}
            for n, (place, row) in enumerate(zip(places, ordered, strict=True)):
                histogram = row.histograms.get(name)
                first = leads.setdefault(place // group, n)
                if histogram:
                    lead += [first] * len(histogram)
                    buckets += histogram.keys()
                    amounts += histogram.values()
            if buckets:
                cell = np.array(lead) * 256 + np.minimum(buckets, 255)
                cell, which = np.unique(cell, return_inverse=True)
                added = np.bincount(which, np.array(amounts, "float64"))
                histograms[name] = Cells(
                    (cell // 256).astype("u2"),
                    (cell % 256).astype("u1"),
                    np.minimum(added, _MOST).astype("u4"),
                )
        return cls(
            np.array(places, "int64"),
            np.array(levels, "f4").reshape(len(LEVELS), -1),
            np.array(counts, "u4").reshape(len(COUNTS), -1),
            histograms,
            group,
        )

    def packed(self) -> bytes:
        """Encode: the head, the places, then columns byte by byte of their numbers, compressed."""
        cells = [self.histograms.get(name) for name in HISTOGRAMS]
        parts = [
            _HEAD.pack(
                _VERSION,
                self.group,
                len(self.places),
                *(0 if one is None else len(one.rows) for one in cells),
            ),
            self.places.astype("<u4").tobytes(),
            _planes(_rounded(self.levels)),
            _planes(self.counts),
        ]
        for one in cells:
            if one is not None:
                parts += [one.rows.astype("<u2").tobytes(), one.buckets.tobytes()]
                parts.append(_planes(one.amounts))
        return zlib.compress(b"".join(parts), 9)

    @classmethod
    def of(cls, raw: bytes) -> "Chunk":
        """Decode; BadRecord when it is not a chunk of this version."""
        try:
            plain = zlib.decompress(raw)
            version, group, count, *sizes = _HEAD.unpack_from(plain)
            if version != _VERSION or not group:
                raise ValueError(f"version {version}")
            at = _HEAD.size
            places = np.frombuffer(plain, "<u4", count, at).astype("int64")
            at += 4 * count
            levels = (
                _unplaned(plain, len(LEVELS) * count, at).view("<f4").reshape(len(LEVELS), count)
            )
            at += levels.nbytes
            counts = _unplaned(plain, len(COUNTS) * count, at).reshape(len(COUNTS), count)
            at += counts.nbytes
            histograms = {}
            for name, size in zip(HISTOGRAMS, sizes, strict=True):
                if size:
                    histograms[name] = Cells(
                        np.frombuffer(plain, "<u2", size, at),
                        np.frombuffer(plain, "u1", size, at + 2 * size),
                        _unplaned(plain, size, at + 3 * size),
                    )
                    at += 7 * size
            if any(len(one.rows) and one.rows.max() >= count for one in histograms.values()):
                raise ValueError("a histogram of no row")
        except (ValueError, struct.error, zlib.error) as error:
            raise BadRecord(f"not a chunk of history: {error}") from error
        return cls(places, levels, counts, histograms, group)

    def rows(self) -> dict[int, TierRow]:
        """The rows by place."""
        ordered = [TierRow() for _ in self.places]
        for name, levels in zip(LEVELS, self.levels.tolist(), strict=True):
            for row, level in zip(ordered, levels, strict=True):
                if level == level:
                    row.levels[name] = level
        for name, counts in zip(COUNTS, self.counts.tolist(), strict=True):
            for row, amount in zip(ordered, counts, strict=True):
                if amount:
                    row.counts[name] = amount
        for name, cells in self.histograms.items():
            for n, bucket, amount in zip(*(column.tolist() for column in cells), strict=True):
                ordered[n].histograms.setdefault(name, {})[bucket] = amount
        return dict(zip(self.places.tolist(), ordered, strict=True))


def pack(rows: Mapping[int, TierRow], group: int = 1) -> bytes:
    """Rows by their place in the chunk (minute of the hour, hour of the day), as a packed chunk."""
    return Chunk.of_rows(rows, group).packed()


def unpack(raw: bytes) -> dict[int, TierRow]:
    """Decode ``pack``; BadRecord when it is not one."""
    return Chunk.of(raw).rows()


def _rounded(levels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    bits = levels.astype("<f4").view("<u4")
    return np.where(np.isnan(levels), bits, (bits + _HALF) & ~_NOISE).astype("<u4")


def _planes(numbers: npt.NDArray[Any]) -> bytes:
    """The lowest bytes of all numbers, then the next, …: what is alike lies together."""
    return numbers.ravel().astype("<u4").view("u1").reshape(-1, 4).T.tobytes()


def _unplaned(plain: bytes, count: int, at: int) -> npt.NDArray[np.uint32]:
    planes = np.frombuffer(plain, "u1", 4 * count, at).reshape(4, count)
    return np.ascontiguousarray(planes.T).view("<u4")[:, 0]
