"""What a frame's columns are made of: dtype, unit and meaning. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

TIME: Final = "datetime64[us, UTC]"


@dataclass(frozen=True, slots=True)
class Column:
    """What one column of a frame holds."""

    dtype: Any
    unit: str  #: empty where there is none
    meaning: str


class Schema(dict[str, Any]):
    """Columns of a frame: as a mapping their dtypes; ``about`` has units and meanings too."""

    def __init__(self, row: str, /, **columns: Column) -> None:
        super().__init__({name: column.dtype for name, column in columns.items()})
        self.row = row  #: what one row is
        self.about: Mapping[str, Column] = columns


def text(meaning: str, unit: str = "") -> Column:
    """A column of texts; empty where there is none."""
    return Column("str", unit, meaning)


def named(meaning: str) -> Column:
    """A column of few texts that come again and again."""
    return Column("category", "", meaning)


def number(unit: str, meaning: str) -> Column:
    """A column of numbers that may be unknown (NaN)."""
    return Column("float64", unit, meaning)


def whole(unit: str, meaning: str) -> Column:
    """A column of whole numbers that are always known."""
    return Column("int64", unit, meaning)


def flag(meaning: str) -> Column:
    """A column of yes and no."""
    return Column("bool", "", meaning)


def moment(meaning: str) -> Column:
    """A column of times; NaT where there is none."""
    return Column(TIME, "UTC", meaning)
