"""A whole private stack for a notebook or a trial: started in one line, gone with the kernel.

Its own Redis servers, workers, processors and dashboard on free ports, data in a temporary directory.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Final, Self
from urllib.parse import quote

from app.embedded import VARIABLES
from app.errors import ArqscopeError
from app.settings import Settings

#: name of the module with the trial's own job functions
MODULE: Final = "trial_jobs"
READY_S: Final = 60.0
STOP_S: Final = 60.0


class PrivateStack:
    """``arqscope up`` in a process of its own; ``settings`` point at it. Close it, or use ``with``.

    *functions* is the source of a module with job functions of your own: workers run them, and they are
    at hand as ``stack.functions``. It finds its files beside it, in ``stack.directory``.
    """

    def __init__(self, *, demo: bool = True, functions: str = "") -> None:
        self.directory = self._directory = Path(tempfile.mkdtemp(prefix="arqscope-"))
        self._module: ModuleType | None = None
        port = _free_port()
        kept = {n: v for n, v in os.environ.items() if n not in VARIABLES.values()}
        environment = {
            **kept,
            "ARQSCOPE_DATA_DIR": str(self._directory / "data"),
            "QUEUE_UI_HOST": "127.0.0.1",
            "QUEUE_UI_PORT": str(port),
            "ARQSCOPE_DRAIN_S": "3",  # closing a trial need not wait for its demo jobs
        }
        if functions:
            (self.directory / f"{MODULE}.py").write_text(functions, encoding="utf-8")
            paths = [str(self.directory), *filter(None, [kept.get("PYTHONPATH")])]
            environment |= {"ARQSCOPE_FUNCTIONS": MODULE, "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-P", "-m", "app.cli", "up", "--with-parent"]
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, *(["--demo"] if demo else [])],
                env=environment,
                cwd=self._directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the kernel's interrupt must not stop it
            )
        self.address = f"http://127.0.0.1:{port}/admin/queues"
        try:
            self._wait_ready(f"http://127.0.0.1:{port}/health")
        except BaseException:
            self.close()
            raise
        self.settings = Settings(
            redis_url=self._url("cache"),
            redis_streams_url=self._url("streams"),
            redis_queue_url=self._url("queue"),
            queue_ui_port=port,
            data_dir=self._directory / "data",
        )

    @property
    def functions(self) -> ModuleType:
        """The module of your own job functions, as the workers have it."""
        if self._module is None:
            spec = spec_from_file_location(MODULE, self.directory / f"{MODULE}.py")
            if (
                spec is None
                or spec.loader is None
                or not (self.directory / f"{MODULE}.py").exists()
            ):
                raise ArqscopeError("this stack was started without functions=")
            self._module = module_from_spec(spec)
            spec.loader.exec_module(self._module)
        return self._module

    def close(self) -> None:
        """Stop every process of the stack and remove its data."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait_ready(self, health: str) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(health, timeout=2):  # noqa: S310 - our own address
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        words = (self._directory / "output").read_text(encoding="utf-8", errors="replace")
        raise ArqscopeError(f"the private stack did not start: {words.strip()[-500:]}")

    def _url(self, role: str) -> str:
        data = self._directory / "data"
        configuration = (data / f"redis-{role}" / "redis.conf").read_text(encoding="utf-8")
        port = re.search(r"^port (\d+)$", configuration, re.MULTILINE)
        password = (data / "password").read_text(encoding="ascii").strip()
        return f"redis://:{quote(password, safe='')}@127.0.0.1:{port[1] if port else 0}/0"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
