"""Run the benchmarks: `python -m bench [--only T1,T3] [--quick] [--rounds N]`."""

import argparse
import time

from bench import (
    api,
    dashboards,
    drain,
    events,
    look,
    memory,
    pages,
    pickup,
    redrive,
    slots,
    startup,
)
from bench.contenders import contenders
from bench.machine import machine
from bench.results import keep, rewrite_table, show

MEASURES = {
    "T1": drain.measure,
    "T2": pickup.measure,
    "T3": slots.measure,
    "T4": look.measure,
    "T5": api.measure_stats,
    "T6": look.measure_pages,
    "T7": api.measure_submit,
    "T8": events.measure,
    "T9": redrive.measure,
    "T10": pages.measure,
    "T11": memory.measure,
    "T12": startup.measure,
}


def main() -> None:
    """Measure, print side by side, and write bench/results.json (not with --quick)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help="rows to measure, e.g. T1,T3 (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written")
    parser.add_argument("--rounds", type=int, default=0, help="default 3, with --quick 1")
    arguments = parser.parse_args()
    asked = [name.strip().upper() for name in arguments.only.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in MEASURES]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    parties = {**contenders(), **events.consumers()}
    versions = machine() | {c.name: c.version for c in parties.values()}
    versions |= redrive.versions() | dashboards.versions()
    for name, value in versions.items():
        print(f"{name:<14}{value}")
    for contender in parties.values():
        print(f"{contender.name:<14}{contender.settings}")
    began = time.monotonic()
    for name in asked or MEASURES:
        print(f"\n{name}", flush=True)
        rows = MEASURES[name](
            quick=arguments.quick, rounds=arguments.rounds or (1 if arguments.quick else 3)
        )
        show(rows)
        if not arguments.quick:
            keep(rows, versions)
            rewrite_table()
    print(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
