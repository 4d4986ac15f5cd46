"""The system of compose/ in containers: asked, loaded, and what it says of its work."""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import redis

from app.declarations import BUILT_IN_QUEUES
from tests.conftest import ROOT, unused_port, wait_until
from tests.deployment import SERVICES, copy_of_compose
from tests.faults.container_engine import Engine

QUEUES = [queue.name for queue in BUILT_IN_QUEUES]
WORKERS = [f"worker-{name}" for name in QUEUES]
OURS = [*WORKERS, "event-processor", "dlq-processor", "queue-processor"]
REDIS = list(SERVICES.values())
STREAM = "pyairtable-events"


class Composed:
    """The system of compose/, up; *files* are the variants in use."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.compose = copy_of_compose(directory)
        self.port = unused_port()
        self.files = ["compose.yaml"]
        self.key = (self.compose / "secrets" / "api_key").read_text()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": self.key}, timeout=10
        )

    @property
    def command(self) -> list[str]:
        """docker-compose for this project and its files."""
        files = [word for file in self.files for word in ("-f", str(self.compose / file))]
        return ["docker-compose", "-p", "arqscope", *files]

    @property
    def services(self) -> list[str]:
        """Every service of these files."""
        further = ["redis-queue-2"] if "compose.sharded.yaml" in self.files else []
        return [*REDIS, *further, *OURS]

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run ``docker-compose words…`` and return what it prints."""
        done = self.engine.run(
            *self.command, *words,
            check=check, cwd=self.compose, environment={"QUEUE_UI_PUBLISHED": str(self.port)},
        )  # fmt: skip
        return str(done.stdout)

    def script(self, name: str, *words: str, check: bool = True) -> Any:
        """Run a script of compose/ for this project."""
        return self.engine.run(
            str(self.compose / name), *words, check=check, cwd=self.compose,
            environment={
                "COMPOSE": " ".join(self.command), "QUEUE_UI_PUBLISHED": str(self.port)
            },
        )  # fmt: skip

    def name(self, service: str) -> str:
        """Name of the container of *service*."""
        return f"arqscope_{service}_1"

    def health(self, service: str) -> str:
        """What the engine's health check of *service* says."""
        return str(self.engine.inspect(self.name(service))["State"]["Health"]["Status"])

    def probes(self, service: str) -> list[str]:
        """What the last health checks of *service* said, and how they ended."""
        said = self.engine.inspect(self.name(service))["State"]["Health"]["Log"]
        return [f"{p['Start']} {p['ExitCode']} {p['Output'][-300:]}" for p in said]

    def wait_healthy(self, limit_s: float = 120) -> None:
        """Wait until every service is healthy by its own check."""

        def sick() -> list[str]:
            return [f"{s}: {self.health(s)}" for s in self.services if self.health(s) != "healthy"]

        end = time.monotonic() + limit_s
        while (ill := sick()) and time.monotonic() < end:
            time.sleep(0.5)
        names = [i.partition(":")[0] for i in ill]
        probes = {name: self.probes(name) for name in names}
        assert not ill, (ill, probes, self("logs", "--tail=20", *names))

    def inside(self, service: str, *words: str, check: bool = True) -> str:
        """Run a command in the container of *service*."""
        return str(self.engine.docker("exec", self.name(service), *words, check=check).stdout)

    def redis_cli(self, service: str, *words: str) -> str:
        """redis-cli as admin, from inside, the password on no command line."""
        password = (self.compose / "secrets" / "redis_admin").read_text()
        done = self.engine.run(
            "docker", "exec", "-e", "REDISCLI_AUTH", self.name(service),
            "redis-cli", "--user", "admin", "--no-auth-warning", *words,
            environment={"REDISCLI_AUTH": password},
        )  # fmt: skip
        return str(done.stdout).strip()

    @contextlib.contextmanager
    def client_of(self, service: str) -> Iterator[redis.Redis]:
        """A connection to a Redis as admin, from this host, which is the router of every network."""
        (network,) = self.engine.inspect(self.name(service))["NetworkSettings"]["Networks"].values()
        password = (self.compose / "secrets" / "redis_admin").read_text()
        with redis.Redis(
            host=network["IPAddress"], username="admin", password=password,
            socket_timeout=10, socket_connect_timeout=10,
        ) as client:  # fmt: skip
            yield client

    def answers(self, path: str = "/health") -> bool:
        """Whether the dashboard says 200."""
        with contextlib.suppress(httpx.HTTPError):
            return self.http.get(path).status_code == 200
        return False


def verified(composed: Composed) -> str:
    """Run ``arqscope verify`` from outside; what it says when not everything passed."""
    done = composed.engine.run(
        sys.executable, "-P", "-m", "app.cli", "verify", f"http://127.0.0.1:{composed.port}",
        "--restart-command", f"{' '.join(composed.command)} restart {{service}}", "--json",
        check=False, cwd=composed.compose, limit_s=400,
        environment={
            "API_KEY": composed.key, "PYTHONPATH": str(ROOT), "QUEUE_UI_PUBLISHED": str(composed.port)
        },
    )  # fmt: skip

    return "" if done.returncode == 0 else str(done.stdout[-4000:] + done.stderr[-2000:])


def pending(composed: Composed) -> tuple[int, int]:
    """Lag and pending of the group of the stream."""
    answer = composed.http.get(f"/streams/{STREAM}/groups")
    groups = answer.json() if answer.status_code == 200 else []
    return (int(groups[0]["lag"] or 0), int(groups[0]["pending"] or 0)) if groups else (-1, -1)


class Load:
    """Submits jobs and events without end, the same again when the outcome is unknown."""

    def __init__(self, composed: Composed, prefix: str = "a") -> None:
        self.composed = composed
        self.prefix = prefix
        self.jobs: dict[str, str] = {}  #: id of an acknowledged job → its queue
        self.acknowledged: dict[str, float] = {}  #: id of a job → when, Unix seconds
        self.events: set[str] = set()
        self.unknown = 0
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._submit, args=(queue,), daemon=True) for queue in QUEUES
        ] + [threading.Thread(target=self._publish, daemon=True)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive()

    def has(self, jobs: int) -> bool:
        """Whether so many jobs were acknowledged."""
        return len(self.jobs) >= jobs

    def _until_known(self, http: httpx.Client, path: str, body: dict[str, Any]) -> bool:
        """Ask until the answer is good; False when told to stop without one."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(httpx.HTTPError):
                if http.post(path, json=body).status_code in (200, 201):
                    return True
            self.unknown += 1
            time.sleep(0.1)
        return False

    def _submit(self, queue: str) -> None:
        with httpx.Client(
            base_url=self.composed.http.base_url, headers=self.composed.http.headers
        ) as http:
            for n in itertools.count():
                if self._stop.wait(0.05):
                    return
                job_id = f"{self.prefix}-{queue}-{n}"
                data = {
                    "duration": 300,
                    "shouldFail": n % 50 == 7,
                    "error": "PermanentError: drill",
                }
                body = {"name": "data-sync", "data": data, "options": {"jobId": job_id}}
                if self._until_known(http, f"/jobs/{queue}", body):
                    self.acknowledged[job_id] = time.time()
                    self.jobs[job_id] = queue

    def _publish(self) -> None:
        with httpx.Client(
            base_url=self.composed.http.base_url, headers=self.composed.http.headers
        ) as http:
            for n in itertools.count():
                if self._stop.wait(0.15):
                    return
                event = {
                    "type": "user.created",
                    "userId": f"{self.prefix}-{n}",
                    "eventId": f"{self.prefix}-{n}",
                    "data": {},
                }
                if self._until_known(http, "/events", event):
                    self.events.add(f"{self.prefix}-{n}")


def state_of(composed: Composed, queue: str, job_id: str) -> str:
    """What became of one job; lost is what is known to be nowhere, not what could not be asked."""
    answers: list[httpx.Response] = []

    def is_known() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            answers.append(composed.http.get(f"/jobs/{queue}/{job_id}"))
        return bool(answers) and answers[-1].status_code in (200, 404)

    wait_until(is_known, 30, f"what became of {job_id} can be asked")
    return str(answers[-1].json()["state"]) if answers[-1].status_code == 200 else "lost"


def users_of(composed: Composed) -> set[str]:
    """Users of whom a handled event told: the effect of an event on Redis."""
    key = f"arqscope:{{{STREAM}}}:statuses:user"
    return set(composed.redis_cli("redis-streams", "ZRANGE", key, "0", "-1").splitlines())


def settled(composed: Composed) -> bool:
    """Whether nothing waits, runs or is pending any more."""
    if not composed.answers("/stats"):
        return False
    stats = composed.http.get("/stats").json()
    busy = sum(stats[q]["waiting"] + stats[q]["active"] + stats[q]["delayed"] for q in QUEUES)
    return busy == 0 and pending(composed) == (0, 0)


def engine_state(composed: Composed, service: str) -> dict[str, Any]:
    return dict(composed.engine.inspect(composed.name(service))["State"])
