"""How long processes that could have gone on waited for a core, as the kernel counts it."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.rig import FULL


class Lateness:
    """Wall time and the wait for cores of some processes, from now on.

    The slice of CI runs beside whatever else the machine does, and what its bounds claim is about our
    processes. Only time is taken off in which one of them was ready to run and had no core: the second
    number of ``/proc/<pid>/task/*/schedstat``. A process that sleeps, or waits for an answer or a lock,
    is not ready, so that nothing a product does too late can hide behind it; on a machine with a free
    core it is 0. At the sizes of FAULTS.md, and where the kernel does not count, it is 0 anyway.
    """

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._began = time.monotonic()
        self._before = {pid: _waited_s(pid) for pid in pids}

    @property
    def waited_s(self) -> float:
        """Seconds the processes waited for a core so far."""
        if FULL:
            return 0.0
        return sum(max(0.0, _waited_s(pid) - self._before[pid]) for pid in self._pids)

    @property
    def took_s(self) -> float:
        """Seconds since the beginning, without those."""
        return time.monotonic() - self._began - self.waited_s


def _waited_s(pid: int) -> float:
    """Seconds all threads of a process have waited for a core; 0: it is gone, or nobody counts."""
    return sum(_of_threads(pid)) / 1e9


def _of_threads(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, IndexError):
                yield int((thread / "schedstat").read_text("ascii").split()[1])
