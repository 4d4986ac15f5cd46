"""Child processes that cannot outlive us: started with a parent-death signal and a pid file.

The only module that starts, signals and reaps processes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final[Any] = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_NO_ENVIRONMENT: Final[dict[str, str]] = {}


def die_with_parent(signal_number: int, parent: int | None = None) -> None:
    """Ask the kernel to signal this process when its parent ends (Linux; elsewhere nothing).

    *parent* is the pid that must still be our parent; when it has died already we end at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
        if parent is not None and os.getppid() != parent:
            os._exit(1)


@dataclass(slots=True, kw_only=True)
class Child:
    """One process of the stack. Start it from the main thread: the death signal follows threads.

    It gets a session of its own, so that Ctrl-C in the terminal reaches only us and we decide the
    order of stopping.
    """

    name: str
    command: Sequence[str]
    directory: Path = Path()  #: holds ``<name>.pid`` and ``<name>.log``
    is_open: bool = False  #: it prints where we print, and leaves no file
    passed: tuple[int, ...] = ()  #: descriptors it gets of us
    environment: Mapping[str, str] = field(default_factory=lambda: _NO_ENVIRONMENT, repr=False)
    death_signal: int = signal.SIGKILL  #: what the process gets when we vanish
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)
    started_at: float = field(default=0.0, init=False)  #: monotonic

    @property
    def log_path(self) -> Path:
        """File that takes what the process prints."""
        return self.directory / f"{self.name}.log"

    @property
    def pid_path(self) -> Path:
        """File with the pid and the command, for whoever finds us dead."""
        return self.directory / f"{self.name}.pid"

    def start(self) -> None:
        """Start the process; what an earlier parent left of it is stopped first."""
        if self.is_open:
            self._start(None)
            return
        self.stop_stale()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log_path.open("ab") as log:
            process = self._start(log)
        text = "\0".join([str(process.pid), *self.command])
        self.pid_path.write_text(text, encoding="utf-8")

    def _start(self, log: BinaryIO | None) -> "subprocess.Popen[bytes]":
        parent = os.getpid()
        self.process = subprocess.Popen(  # noqa: S603 - our own commands, no shell
            list(self.command),
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=None if log is None else subprocess.STDOUT,
            start_new_session=True,
            pass_fds=self.passed,
            preexec_fn=_before_exec(self.death_signal, parent),  # noqa: PLW1509, RUF100
        )
        self.started_at = time.monotonic()
        return self.process

    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def ask_to_stop(self) -> None:
        """Send SIGTERM; ``stop`` waits for the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self, patience_s: float) -> bool:
        """SIGTERM, then SIGKILL after *patience_s*; reap it and whatever it left. True: it was asked only."""
        if self.process is None:
            return True
        self.ask_to_stop()
        asked_only = True
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            asked_only = False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its session: grandchildren too
        self.process.wait()
        if not self.is_open:
            self.pid_path.unlink(missing_ok=True)
        self.process = None
        return asked_only

    def last_words(self, lines: int = 3) -> str:
        """Return the last *lines* it printed."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 8192))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])

    def stop_stale(self) -> bool:
        """Stop the process an earlier, vanished parent left running; True when there was one.

        Only a process whose command line is the one written down is touched: pids are reused.
        """
        pid, command = self._written_down()
        if pid is None:
            return False
        stale = _command_of(pid) == command
        for signal_number in (signal.SIGTERM, signal.SIGKILL) if stale else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)
            if _wait_until(lambda: _command_of(pid) != command, 10):
                break
        self.pid_path.unlink(missing_ok=True)
        return stale

    def left_running(self) -> bool:
        """Whether the process of the pid file runs, whoever started it."""
        pid, command = self._written_down()
        return pid is not None and _command_of(pid) == command

    def _written_down(self) -> tuple[int | None, list[str]]:
        try:
            pid, *command = self.pid_path.read_text(encoding="utf-8").split("\0")
            return int(pid), command
        except (OSError, ValueError):
            return None, []


def _before_exec(signal_number: int, parent: int) -> Callable[[], None]:
    def run() -> None:
        die_with_parent(signal_number, parent)

    return run


def _command_of(pid: int) -> list[str] | None:
    """Command line of *pid*; None when there is no such process (or it is a zombie)."""
    path = Path(f"/proc/{pid}/cmdline")
    if path.parent.parent.joinpath("self").exists():
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        return raw.decode("utf-8", "replace").rstrip("\0").split("\0") if raw else None
    shown = subprocess.run(  # noqa: S603
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip().split(" ") if shown.stdout.strip() else None


def _wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
