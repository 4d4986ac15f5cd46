"""A line to Redis that falls silent: packets vanish both ways, nothing is refused or closed.

At full size a network namespace of the workers' own, where root may make one; else the proxy.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from tests.faults.proxy import ChaosProxy
from tests.faults.rig import FULL, Rig, WorkerProcess

#: nobody's address: frames sent to it arrive nowhere, as dropped by a firewall without a word
_NOBODY: Final = "02:00:00:00:00:01"


class Line(Protocol):
    """The way from workers to Redis."""

    kind: str
    options: tuple[str, ...]  #: what redis-server must be started with

    def lead_to(self, rig: Rig) -> None: ...
    def start_worker(self, rig: Rig) -> WorkerProcess: ...
    def silence(self) -> None: ...
    def heal(self) -> None: ...


@asynccontextmanager
async def silent_line() -> AsyncIterator[Line]:
    """A line that works until it is silenced."""
    if FULL and os.geteuid() == 0 and shutil.which("ip"):
        try:
            namespace = _Namespace()
        except subprocess.CalledProcessError:
            pass  # a container without the right to: the proxy serves
        else:
            try:
                yield namespace
            finally:
                namespace.close()
            return
    async with ChaosProxy(0) as proxy:
        yield _Proxied(proxy)


class _Proxied:
    kind = "proxy"
    options = ()

    def __init__(self, proxy: ChaosProxy) -> None:
        self._proxy = proxy

    def lead_to(self, rig: Rig) -> None:
        self._proxy.target_port = rig.server.port

    def start_worker(self, rig: Rig) -> WorkerProcess:
        url = rig.server.database(2)
        url = url.replace(f":{rig.server.port}/", f":{self._proxy.port}/")
        return rig.start(more={"REDIS_QUEUE_URL": url})

    def silence(self) -> None:
        self._proxy.blackhole = True

    def heal(self) -> None:
        self._proxy.blackhole = False


class _Namespace:
    """Two ends of a cable: ours with Redis, the other in the workers' namespace.

    Silence is a wrong link-layer address of the far end, on both ends: the kernel sends and resends, and
    no packet arrives. (``iptables -j DROP`` does the same where it is installed.)
    """

    kind = "netns"

    def __init__(self) -> None:
        number = os.getpid() % 16_000
        self._name = f"arqscope-{os.getpid()}"
        self._near, self._far = f"aqn{number}", f"aqf{number}"
        subnet = f"10.213.{number % 250}"
        self.address, self._far_address = f"{subnet}.1", f"{subnet}.2"
        self.options = ("--bind", "127.0.0.1", self.address)
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._near, "type", "veth", "peer", self._far)
            _ip("link", "set", self._far, "netns", self._name)
            _ip("addr", "add", f"{self.address}/30", "dev", self._near)
            _ip("link", "set", self._near, "up")
            self._inside("addr", "add", f"{self._far_address}/30", "dev", self._far)
            self._inside("link", "set", self._far, "up")
            self._inside("link", "set", "lo", "up")
        except subprocess.CalledProcessError:
            self.close()
            raise

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", self._near], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)

    def lead_to(self, rig: Rig) -> None:
        pass

    def start_worker(self, rig: Rig) -> WorkerProcess:
        urls = {
            name: rig.server.database(number).replace("127.0.0.1", self.address)
            for number, name in enumerate(("REDIS_URL", "REDIS_STREAMS_URL", "REDIS_QUEUE_URL"))
        }
        return rig.start_fresh("ip", "netns", "exec", self._name, **urls)

    def silence(self) -> None:
        _ip("neigh", "replace", self._far_address, *self._to_nobody(self._near))
        self._inside("neigh", "replace", self.address, *self._to_nobody(self._far))

    def heal(self) -> None:
        _ip("neigh", "del", self._far_address, "dev", self._near)
        self._inside("neigh", "del", self.address, "dev", self._far)

    def _to_nobody(self, device: str) -> tuple[str, ...]:
        return ("lladdr", _NOBODY, "dev", device, "nud", "permanent")

    def _inside(self, *arguments: str) -> None:
        _ip("-n", self._name, *arguments)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
