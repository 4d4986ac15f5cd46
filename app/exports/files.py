"""Frames as files: CSV no spreadsheet runs, Parquet with its dtypes, JSON lines. Pure."""

import re
from typing import Final

import pandas as pd

from app.errors import ActionRefused, InvalidRequest
from app.payloads.redaction import redacted_text

#: a spreadsheet runs what begins like this
_FORMULA: Final = re.compile(r"^[=+\-@\t\r]")
#: columns whose texts people wrote: credentials in them are masked in what leaves
_TEXTS: Final = frozenset(
    {"error", "arguments", "note", "reason", "decision_reason", "jobs", "text", "filter", "value"}
)
SUFFIXES: Final = ("parquet", "csv", "jsonl", "json")


def records_json(frame: pd.DataFrame) -> str:
    """Rows as a JSON array: ISO times, null for what is unknown."""
    return str(frame.to_json(orient="records", date_format="iso", date_unit="ms"))


def safe_csv(frame: pd.DataFrame) -> str:
    """CSV no spreadsheet takes for formulas: such texts get an apostrophe before them."""
    shown = frame.copy()
    for column in shown.columns:
        if shown[column].dtype in ("object", "str", "string", "category"):
            shown[column] = [
                f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value
                for value in shown[column]
            ]
    # With CRLF a cell that holds either of the two is quoted, and cannot begin a row.
    return shown.to_csv(index=False, lineterminator="\r\n")


def parquet(frame: pd.DataFrame) -> bytes:
    """The frame as Parquet, dtypes kept; ActionRefused where pyarrow is not installed."""
    try:
        body: bytes = frame.to_parquet(index=False)
    except ImportError as error:
        raise ActionRefused("Parquet needs pyarrow: pip install arqscope[notebook]") from error
    return body


def redacted_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy with what looks like a credential masked in its free texts."""
    made = frame.copy()
    for column in _TEXTS & set(map(str, made.columns)):
        made[column] = [
            redacted_text(text) if isinstance(text, str) else text for text in made[column]
        ]
        made[column] = made[column].astype(frame[column].dtype)
    return made


def file_of(frame: pd.DataFrame, suffix: str) -> bytes:
    """The bytes of a file with that suffix; InvalidRequest for one we cannot write."""
    match suffix.lower().lstrip("."):
        case "parquet":
            return parquet(frame)
        case "csv":
            return safe_csv(frame).encode("utf-8", "replace")
        case "json":
            return records_json(frame).encode()
        case "jsonl":
            return frame.to_json(
                orient="records", lines=True, date_format="iso", date_unit="ms"
            ).encode()
        case other:
            raise InvalidRequest(
                f"{other!r} is not a file we can write",
                field="path",
                hint=f"a name that ends in .{', .'.join(SUFFIXES)}",
            )
