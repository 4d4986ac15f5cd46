"""The whole stack on one machine: embedded Redis, workers, processors, dashboard, demo load.

Starts them in order, restarts what crashes, stops them in order (producers, workers, then Redis).
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import redis
from redis.exceptions import RedisError

from app import keys
from app.child import Child
from app.doctor.preflight import at_once, look, refuse
from app.doctor.servers import KEEPS
from app.embedded import (
    VARIABLES,
    EmbeddedRedis,
    embedded_servers,
    find_server,
    port_is_free,
    sole_owner,
)
from app.errors import PortInUse
from app.settings import Settings

_TICK_S: Final = 0.1
_FIRST_BACKOFF_S: Final = 0.5
_LAST_BACKOFF_S: Final = 30.0
#: a child that lived this long was healthy: its next crash starts at the first back-off again
_HEALTHY_S: Final = 30.0
_DASHBOARD_READY_S: Final = 60.0
#: a terminal and make may both deliver one Ctrl-C; a second one within this time is the same one
_SAME_KEY_PRESS_S: Final = 1.0


@dataclass(slots=True)
class Service:
    """A child the stack keeps alive, and when it may be started again after a crash."""

    child: Child
    start: Callable[[], None]
    order: int  #: of stopping: 0 producers, 1 workers and processors, 2 Redis
    backoff_s: float = _FIRST_BACKOFF_S
    retry_at: float | None = None  #: monotonic; None: runs, or crashed unnoticed


class Stack:
    """Run everything until Ctrl-C or SIGTERM; ``say`` tells a person what happens, line by line."""

    def __init__(self, settings: Settings, *, demo: bool, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._demo = demo
        self._say = say
        self._data_dir = settings.data_dir.resolve()
        self._servers: list[EmbeddedRedis] = []
        self._services: list[Service] = []
        self._asked_at: float | None = None  #: monotonic, when a person first asked us to stop
        self._hurry = False

    def run(self) -> None:
        """Start, supervise, stop. Raises an ArqscopeError when something cannot start."""
        with sole_owner(self._data_dir) as lock:
            self._check_port()
            running = f"{os.getpid()} running {self._settings.queue_ui_port}"
            lock.write_text(running, encoding="utf-8")  # for port_of_running
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, self._asked_to_stop)
            try:
                self._start()
                while self._asked_at is None:
                    self._supervise()
                    time.sleep(_TICK_S)
            finally:
                lock.write_text(f"{os.getpid()} stopping", encoding="utf-8")
                self._stop()

    @property
    def address(self) -> str:
        """Where a person on this machine finds the dashboard."""
        host = self._settings.queue_ui_host
        shown = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host  # noqa: S104
        return f"http://{shown}:{self._settings.queue_ui_port}/admin/queues"

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif number == signal.SIGINT and now - self._asked_at > _SAME_KEY_PRESS_S:
            self._hurry = True

    def _check_port(self) -> None:
        host, port = self._settings.queue_ui_host, self._settings.queue_ui_port
        if not port_is_free(port, host):
            raise PortInUse(
                f"port {port} on {host} is in use: stop what listens there, or choose another "
                f"port (arqscope up --port {port + 1}, make demo PORT={port + 1})"
            )

    # -- starting --------------------------------------------------------------------------------

    def _start(self) -> None:
        urls = self._start_redis()
        environment = self._environment(urls)
        for queue in self._settings.queue_names:
            self._add(f"worker-{queue}", ["worker", queue], environment, order=1)
        self._add("events", ["events"], environment, order=1)
        self._add("dead-letters", ["dead-letters"], environment, order=1)
        if self._demo:
            self._add_command("demo", ["-m", "app.demo"], environment, order=0)
        self._add("dashboard", ["serve"], environment, order=0)
        if self._dashboard_answers():
            self._say(f"[bold]Dashboard[/]  {self.address}")
            self._say("Ctrl-C stops everything; data and logs are in " + str(self._data_dir))

    def _start_redis(self) -> dict[str, str]:
        given = {
            role: self._settings.url(role)
            for role, variable in VARIABLES.items()
            if variable.lower() in self._settings.model_fields_set
        }
        self._look_before(given)
        wanted = [role for role in VARIABLES if role not in given]
        if wanted:
            binary = find_server()
            self._servers = embedded_servers(self._data_dir, wanted, binary=binary)
            version = ".".join(map(str, binary.version))
            self._say(
                f"[bold]Redis[/]      {version} ({binary.path}), embedded: not for production"
            )
        for server in self._servers:
            self._services.append(Service(server.child, server.child.start, order=2))
            server.start()
            self._say(f"           {server.role:<8} 127.0.0.1:{server.port}")
        return {**given, **{server.role: server.url for server in self._servers}}

    def _look_before(self, given: Mapping[str, str]) -> None:
        """Tell what is wrong with servers that are not ours; UnsafeRedis when nobody should start on one."""
        roles = [role for role in KEEPS if role in given]
        roles += [server.name for server in self._settings.placement.servers]
        if not roles:
            return
        seen = at_once(look(self._settings, roles))
        for finding in seen.told:
            self._say(f"[yellow]{finding.where}: {finding.sentence}[/] {finding.remedy}")
        refuse(seen)

    def _environment(self, urls: Mapping[str, str]) -> dict[str, str]:
        environment = {VARIABLES[role]: url for role, url in urls.items()}
        environment["QUEUE_UI_HOST"] = self._settings.queue_ui_host
        environment["QUEUE_UI_PORT"] = str(self._settings.queue_ui_port)
        environment["ARQSCOPE_DATA_DIR"] = str(self._data_dir)
        environment["PYTHONUNBUFFERED"] = "1"
        if self._demo:
            environment["GENERIC_JOBS"] = "true"
            environment["ARQSCOPE_DEMO"] = "true"
        return environment

    def _add(
        self, name: str, arguments: list[str], environment: Mapping[str, str], *, order: int
    ) -> None:
        self._add_command(name, ["-m", "app.cli", *arguments], environment, order=order)

    def _add_command(
        self, name: str, arguments: list[str], environment: Mapping[str, str], *, order: int
    ) -> None:
        child = Child(
            name=name,
            # -P: the directory we are called from must not hide our packages
            command=[sys.executable, "-P", *arguments],
            directory=self._data_dir / "run",
            environment=environment,
        )
        _keep_one_old_log(child.log_path)
        self._services.append(Service(child, child.start, order=order))
        if self._asked_at is None:
            child.start()

    def _dashboard_answers(self) -> bool:
        host, port = self._settings.queue_ui_host, self._settings.queue_ui_port
        where = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        end = time.monotonic() + _DASHBOARD_READY_S
        while self._asked_at is None and time.monotonic() < end:
            self._supervise()
            try:
                socket.create_connection((where, port), timeout=1).close()
            except OSError:
                time.sleep(_TICK_S)
            else:
                return True
        if self._asked_at is None:
            self._say(f"[yellow]the dashboard does not answer yet at {self.address}[/]")
        return False

    # -- keeping alive ---------------------------------------------------------------------------

    def _supervise(self) -> None:
        now = time.monotonic()
        for service in self._services:
            if service.child.running():
                continue
            if service.retry_at is None:
                self._note_crash(service, now)
            elif now >= service.retry_at:
                service.retry_at = None
                service.start()

    def _note_crash(self, service: Service, now: float) -> None:
        child = service.child
        if now - child.started_at >= _HEALTHY_S:
            service.backoff_s = _FIRST_BACKOFF_S
        code = child.process.returncode if child.process else None
        words = child.last_words(1)
        self._say(
            f"[yellow]{child.name} ended ({_why(code)}); starting it again in "
            f"{service.backoff_s:g} s. Log: {child.log_path}[/]" + (f"\n  {words}" if words else "")
        )
        child.stop(0)  # reaps it and whatever it left
        service.retry_at = now + service.backoff_s
        service.backoff_s = min(service.backoff_s * 2, _LAST_BACKOFF_S)

    # -- stopping --------------------------------------------------------------------------------

    def _stop(self) -> None:
        if self._services:
            self._say(
                "Stopping: running jobs may finish "
                f"(up to {self._settings.drain_s:g} s; Ctrl-C again: at once)"
            )
        self._stop_order(0, 12.0)
        self._stop_order(1, self._settings.drain_s + 10.0)
        kept = self._kept()
        self._stop_order(2, 15.0)
        if kept:
            self._say(kept)

    def _stop_order(self, order: int, patience_s: float) -> None:
        """Ask all of one order to stop together, wait for the last; a second Ctrl-C ends patience."""
        these = [service.child for service in self._services if service.order == order]
        for child in these:
            child.ask_to_stop()
        end = time.monotonic() + patience_s
        while any(child.running() for child in these) and time.monotonic() < end:
            if self._hurry and order != 2:  # Redis always gets its time to write
                break
            time.sleep(0.02)
        for child in these:
            child.stop(0)

    def _kept(self) -> str:
        waiting = dead = 0
        url = next((s.url for s in self._servers if s.role == "queue"), None)
        if url is None:
            return "Stopped. Your Redis servers keep everything."
        try:
            with redis.Redis.from_url(url, socket_timeout=2) as client:
                for queue in self._settings.queue_names:
                    waiting += int(client.zcard(queue))
                    dead += int(client.zcard(keys.dead_open(queue)))
        except (RedisError, OSError):
            return f"Stopped. Data is kept in {self._data_dir}."
        return (
            f"Stopped. Kept in {self._data_dir}: {_count(waiting, 'unfinished job')}, "
            f"{_count(dead, 'open dead letter')}. `arqscope up` goes on from there."
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _why(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _keep_one_old_log(path: Path) -> None:
    """Bound the logs: each start keeps the one before as ``.old``."""
    if path.exists():
        path.replace(path.with_suffix(".log.old"))
