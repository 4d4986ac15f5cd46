"""Whether every accepted job is accounted for, as far as counters tell. Pure.

accepted = waiting + deferred + running + complete + dead + aborted. A dead letter that is retried is
accepted once more, so that discarding or resolving it changes nothing here: the law is about jobs.
"""

from typing import Final

import pandas as pd

from app.columns import Schema, number, text

CONSERVATION_COLUMNS: Final = Schema(
    "One row per queue.",
    queue=text("name of the queue"),
    accepted=number("jobs", "enqueued by our producers since ever, redrives included"),
    held=number("jobs", "waiting, deferred and running"),
    ended=number("jobs", "complete, dead or aborted"),
    difference=number("jobs", "accepted less held and ended; NaN: unknown"),
    verdict=text("holds, missing, extra or unknown"),
)


def conservation(queues: pd.DataFrame) -> pd.DataFrame:
    """The figure of every queue of the queues frame, as CONSERVATION_COLUMNS.

    ``missing``: more were accepted than are known (jobs taken out by other means, a result whose
    counter was lost). ``extra``: more are known than our producers accepted: stock producers count
    nothing. Jobs moving while the sample was read may show as a difference for one sample.
    """
    held = queues[["waiting", "deferred", "running"]].sum(axis=1, skipna=False)
    ended = queues[["complete", "dead_total", "aborted"]].sum(axis=1, skipna=False)
    difference = queues["accepted"] - held - ended
    verdict = pd.Series("unknown", index=queues.index, dtype="str")
    verdict[difference == 0] = "holds"
    verdict[difference > 0] = "missing"
    verdict[difference < 0] = "extra"
    made = {
        "queue": queues["queue"],
        "accepted": queues["accepted"],
        "held": held,
        "ended": ended,
        "difference": difference,
        "verdict": verdict,
    }
    return pd.DataFrame(made).astype(dict(CONSERVATION_COLUMNS)).reset_index(drop=True)
