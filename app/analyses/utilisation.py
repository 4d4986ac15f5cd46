"""How much of their slots workers use, and since when jobs wait. Pure."""

from typing import Final

import pandas as pd

from app import frames
from app.columns import Schema, number, text

UTILISATION_COLUMNS: Final = Schema(
    "One row per queue.",
    queue=text("name of the queue"),
    workers=number("workers", "live workers that serve it"),
    slots=number("slots", "jobs they may run at once"),
    busy=number("slots", "of these, taken"),
    now=number("0 to 1", "busy of slots; NaN: no slot, or unknown"),
    mean=number("0 to 1", "the same over the history given"),
    saturated_share=number("0 to 1", "share of the samples with every slot busy"),
)
AGE_COLUMNS: Final = Schema(
    "One row per queue.",
    queue=text("name of the queue"),
    oldest_wait_s=number("s", "age of the oldest due job nobody took yet"),
    worst_s=number("s", "the greatest in the history given"),
    grows_s_per_s=number("s/s", "1: nothing is taken; 0: it keeps up; below: it catches up"),
)


def utilisation(queues: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Slots in use now and over *history* (the snapshot's), as UTILISATION_COLUMNS.

    The past is measured against the slots of now: running jobs of the log over them, at most 1.
    """
    rows = []
    for row in queues.to_dict("records"):
        slots = row["slots"]
        past = history.loc[history["queue"] == row["queue"], "running"].dropna()
        share = (past / slots).clip(upper=1.0) if slots and slots > 0 else past.iloc[:0]
        rows.append(
            {
                "queue": row["queue"],
                "workers": row["workers"],
                "slots": slots,
                "busy": row["busy"],
                "now": row["busy"] / slots if slots and slots > 0 else None,
                "mean": None if share.empty else float(share.mean()),
                "saturated_share": None if share.empty else float((share >= 1.0).mean()),
            }
        )
    return frames.frame_of(rows, UTILISATION_COLUMNS)


def oldest_ages(queues: pd.DataFrame, minutes: pd.DataFrame) -> pd.DataFrame:
    """Age of each queue's oldest due job and how it grows, from *minutes* (TIER_COLUMNS), oldest first.

    The growth is between the first and the last minute of the range in which the age is known.
    """
    rows = []
    for row in queues.to_dict("records"):
        mine = minutes[minutes["source"] == row["queue"]].dropna(subset=["oldest_wait_s"])
        grows = None
        if len(mine) >= 2:
            ages, at = mine["oldest_wait_s"], mine["at"]
            passed_s = (at.iloc[-1] - at.iloc[0]).total_seconds()
            grows = (ages.iloc[-1] - ages.iloc[0]) / passed_s
        rows.append(
            {
                "queue": row["queue"],
                "oldest_wait_s": row["oldest_wait_s"],
                "worst_s": mine["oldest_wait_s"].max() if len(mine) else None,
                "grows_s_per_s": grows,
            }
        )
    return frames.frame_of(rows, AGE_COLUMNS)
