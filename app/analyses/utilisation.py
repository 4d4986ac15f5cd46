"""How much of their slots workers use, and since when jobs wait. Pure."""

import pandas as pd

from app import frames

#: One row per queue.
UTILISATION_COLUMNS: frames.Columns = {
    "queue": "str",
    "workers": "float64",
    "slots": "float64",
    "busy": "float64",
    "now": "float64",  #: busy of slots, 0 to 1; NaN: no slot, or unknown
    "mean": "float64",  #: over the history given
    "saturated_share": "float64",  #: share of the samples with every slot busy
}
#: One row per queue.
AGE_COLUMNS: frames.Columns = {
    "queue": "str",
    "oldest_wait_s": "float64",  #: the oldest due job nobody took yet
    "worst_s": "float64",  #: the greatest in the history given
    "grows_s_per_s": "float64",  #: 1: nothing is taken; 0: it keeps up; below: it catches up
}


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
