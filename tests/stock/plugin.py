"""A pytest plugin for arq's own tests: a private redis-server for their container, our worker for theirs."""

import os
import socket
import subprocess
import sys
import tempfile
import time
import types
from typing import Any


class RedisContainer:
    """Stands for testcontainers' class of that name, without a container."""

    port = 6379

    def __init__(self, image: str) -> None:
        self._directory = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    def __enter__(self) -> "RedisContainer":
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [os.environ["STOCK_REDIS"], *options, "--dir", self._directory.name],
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise RuntimeError("redis-server did not start")

    def __exit__(self, *_: Any) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._directory.cleanup()

    def get_container_host_ip(self) -> str:
        return "127.0.0.1"

    def get_exposed_port(self, port: int) -> int:
        return self._port


container = types.ModuleType("testcontainers.redis")
container.RedisContainer = RedisContainer  # type: ignore[attr-defined]
sys.modules["testcontainers"] = types.ModuleType("testcontainers")
sys.modules["testcontainers.redis"] = container

if ours := os.environ.get("STOCK_OURS"):
    sys.path.append(ours)  # behind arq's checkout: both have a package called tests
    from workers.engine import worker as engine

    engine.install()
