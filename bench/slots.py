"""T3: slow jobs at many slots, and several workers on one queue."""

from functools import partial

from bench.contenders import contenders
from bench.drain import Drain, drain, rounds_of
from bench.results import Row

MS = 50.0
#: slots → (jobs to drain, least share of the ideal rate)
SIZES = {10: (1_600, 0.97), 100: (10_000, 0.92), 1_000: (70_000, 0.70)}
PEERS = ("arq", "arq tuned", "BullMQ")


def measure(*, quick: bool, rounds: int) -> list[Row]:
    """T3."""
    return _slow(quick=quick, rounds=rounds) + _fleet(quick=quick, rounds=rounds)


def _slow(*, quick: bool, rounds: int) -> list[Row]:
    known = contenders()
    rows = []
    for slots, (count, least) in SIZES.items():
        count = count // 3 if quick else count
        ideal = slots / MS * 1000
        print(f"  T3, {MS:g} ms jobs, {slots} slots (ideal {ideal:,.0f}/s)", flush=True)
        names = ["arqscope", *(n for n in PEERS if n in known and (n != "arq" or slots == 10))]
        plans = {
            name: partial(
                drain,
                known[name],
                count,
                slots=slots,
                ms=MS,
                floor=slots,
                enough_s=3.0 if quick else 8.0,
            )
            for name in names
        }
        found = rounds_of(plans, rounds)
        share = {name: d.jobs_per_s / ideal for name, d in found.items()}
        mine = share.pop("arqscope")
        rows.append(
            Row(
                id=f"T3.slow-{slots}",
                what=f"{MS:g} ms jobs, share of the ideal rate (slots / duration)",
                unit=f"of {ideal:,.0f}/s",
                ours=mine,
                peers=share,
                target=f"≥ {least:g}",
                met=mine >= least,
                settings=f"1 worker, {slots} slots",
                rounds=rounds,
            )
        )
    return rows


def _fleet(*, quick: bool, rounds: int) -> list[Row]:
    """No-op jobs, so that Redis and the cores are the limit and not the slots."""
    known = contenders()
    count = 30_000 if quick else 200_000
    print(f"  T3, several workers, backlog {count:,} no-op jobs", flush=True)
    plans = {
        f"{name} x{n}": partial(drain, known[name], count, workers=n)
        for name in ("arqscope", "arq tuned", "BullMQ")
        if name in known
        for n in (1, 2, 4)
        if name == "arqscope" or n < 4
    }
    found = rounds_of(plans, rounds)

    def row(part: str, what: str, mine: str, others: list[str], target: str, least: float) -> Row:
        peers = {name: found[name].jobs_per_s for name in others if name in found}
        first = peers.get(others[0])
        ours = found[mine].jobs_per_s
        return Row(
            id=f"T3.{part}",
            what=what,
            unit="jobs/s",
            ours=ours,
            peers=peers,
            target=target,
            met=None if first is None else ours >= least * first,
            settings=f"no-op jobs, backlog {count:,}, 100 slots each, {mine}",
            rounds=rounds,
        )

    rows = [
        row("two", "two workers against one", "arqscope x2", ["arqscope x1"], "≥ 1.3 x one", 1.3),
        row(
            "two-peers",
            "two workers against two",
            "arqscope x2",
            ["BullMQ x2", "arq tuned x2"],
            "ahead of two BullMQ workers",
            1.0,
        ),
        row(
            "four",
            "four workers against two",
            "arqscope x4",
            ["arqscope x2"],
            "never slower than two",
            1.0,
        ),
    ]
    print(_fleet_cpu(found), flush=True)
    return rows


def _fleet_cpu(found: dict[str, Drain]) -> str:
    return "\n".join(
        f"    {name:<16}{d.worker_us + d.redis_us:6.1f} µs of CPU per job, Redis {d.redis_us:.1f}"
        for name, d in found.items()
    )
