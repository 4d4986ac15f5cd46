"""A deployment under test: its HTTP API, its Redis servers where we may reach them, and its restart."""

import asyncio
import json
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from app.errors import CheckFailed
from app.verify.proofs import failed, impossible
from app.wire.connections import connect, explained

#: role → the name the specification, ``/health`` and the compose file give its server
SERVICES: Final[Mapping[str, str]] = {
    "cache": "redis",
    "streams": "redis-streams",
    "queue": "redis-queue",
}
#: what the name of a further queue server looks like: ``queue-2`` is the second
FURTHER: Final = re.compile(r"queue-\d{1,3}")
#: s one request may take, and connecting for it
REQUEST_S: Final = 10.0
CONNECT_S: Final = 5.0
#: s a restart command may take
RESTART_S: Final = 120.0
_RETRY: Final = "start it, or give the right address: arqscope verify http://host:8009"


def service_of(role: str) -> str:
    """The name ``/health`` and compose give the server of *role*; ``queue-2`` … are further queue servers."""
    return SERVICES.get(role) or f"redis-{role}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON; None when it is not."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def problem(self) -> str:
        """What the server says is wrong, for a sentence."""
        told = self.json
        error = told.get("error") if isinstance(told, dict) else None
        words = str(error.get("message", "")) if isinstance(error, dict) else ""
        return f"{self.status} {words}".strip()[:300]


@dataclass(slots=True, kw_only=True)
class Deployment:
    """What is verified. *urls* are those of its Redis servers, by role; none is needed.

    *restart* restarts the server of a role; without it nothing can be said about persistence.
    """

    url: str
    key: str = ""
    urls: Mapping[str, str] = field(default_factory=dict)
    restart: Callable[[str], Awaitable[None]] | None = None
    patience_s: float = 30.0  #: how long work may take to be done
    load: int = 100  #: jobs and events of the load check
    _clients: dict[str, Any] = field(default_factory=dict)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        with_key: bool = True,
    ) -> Answer:
        """Send a request and return the answer, whatever it says; CheckFailed when there is none."""
        headers = {"Accept": "application/json"}
        if self.key and with_key:
            headers["X-API-Key"] = self.key
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = HTTPRequest(
            self.url.rstrip("/") + path,
            method=method,
            headers=headers,
            body=json.dumps(body) if body is not None else ("" if method == "POST" else None),
            connect_timeout=CONNECT_S,
            request_timeout=REQUEST_S,
            follow_redirects=False,
        )
        client = AsyncHTTPClient(max_clients=50)
        try:
            got: HTTPResponse = await client.fetch(request, raise_error=False)
        except (OSError, HTTPClientError, ValueError) as error:
            raise failed(f"nothing answers at {self.url} ({_words(error)})", _RETRY) from error
        if got.code == 599:
            raise failed(f"nothing answers at {self.url} ({_words(got.error)})", _RETRY)
        return Answer(got.code, dict(got.headers), got.body)

    async def get(self, path: str) -> Any:
        """GET *path* as JSON; CheckFailed for anything but 200."""
        return _granted("GET", path, await self.ask("GET", path))

    async def post(self, path: str, body: Any = None) -> Any:
        """POST to *path* and return the JSON of the answer; CheckFailed for anything but 200 or 201."""
        return _granted("POST", path, await self.ask("POST", path, body))

    async def eventually(
        self, look: Callable[[], Awaitable[Any]], otherwise: Callable[[], Awaitable[Exception]]
    ) -> Any:
        """Return what *look* finds once it is true; raise what *otherwise* makes after the patience."""
        end = asyncio.get_running_loop().time() + self.patience_s
        while True:
            found = await look()
            if found:
                return found
            if asyncio.get_running_loop().time() > end:
                raise await otherwise()
            await asyncio.sleep(0.1)

    def redis(self, role: str) -> Redis | None:
        """A client of the server of *role*; None where its URL is not known."""
        if role not in self.urls:
            return None
        if role not in self._clients:
            self._clients[role] = connect(self.urls[role])
        client: Redis = self._clients[role]
        return client

    async def run_of(self, role: str) -> str:
        """What changes when the server of *role* restarts: its run id, or since when it is up."""
        client = self.redis(role)
        if client is not None:
            try:
                info: Any = await client.info("server")
            except (RedisError, OSError) as error:
                told = explained(error, self.urls[role])
                raise failed(str(told), f"start {service_of(role)}, or correct its URL") from error
            return str(info.get("run_id", ""))
        rows = await self.get("/frames/redis.json")
        up_s = next((row.get("uptime_s") for row in rows if row.get("role") == role), None)
        if up_s is None:
            raise failed(
                f"the server does not know how long {service_of(role)} is up",
                "look at /health: it says what it cannot reach",
            )
        return f"up {float(up_s):.0f}"

    async def _run_before(self, role: str) -> str:
        """``run_of``, once it is known: the dashboard may just have lost this Redis to the restart before."""
        problem: Exception | None = None

        async def look() -> str:
            nonlocal problem
            try:
                return await self.run_of(role)
            except CheckFailed as error:
                problem = error
                return ""

        async def otherwise() -> Exception:
            return problem or failed(
                f"{service_of(role)} names no run of its own", "ask it: redis-cli INFO server"
            )

        return str(await self.eventually(look, otherwise))

    async def restart_server(self, role: str) -> str:
        """Restart the server of *role* and return when it answers again; the proof that it was one.

        CheckImpossible where nobody told how.
        """
        if self.restart is None:
            raise impossible(
                f"nobody told how {service_of(role)} is restarted from here",
                "name the command: --restart-command 'docker compose restart {service}' "
                "(it is run once for each queue server and once for redis-streams)",
            )
        before = await self._run_before(role)
        await self.restart(role)

        async def again() -> str:
            try:
                now = await self.run_of(role)
            except Exception:  # noqa: BLE001, RUF100 - away is what a restart looks like
                return ""
            return now if _restarted(before, now) else ""

        async def not_restarted() -> Exception:
            return failed(
                f"{service_of(role)} was not restarted: it is the same process as before, or does not "
                f"answer within {self.patience_s:g} s",
                "try the restart command by hand; it must restart the Redis this deployment uses",
            )

        after = str(await self.eventually(again, not_restarted))
        return f"{before[:8]} → {after[:8]}" if role in self.urls else f"{before} s → {after} s"

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.aclose()


def _restarted(before: str, now: str) -> bool:
    if not before.startswith("up "):
        return bool(now) and now != before
    return now.startswith("up ") and float(now[3:]) < float(before[3:])


def _granted(method: str, path: str, answer: Answer) -> Any:
    told = answer.json
    if answer.status in (200, 201) and told is not None:
        return told
    if answer.status == 401:
        raise failed(
            f"{method} {path}: the key is refused or missing ({answer.problem})",
            "give a key that works: --key, or API_KEY in the environment",
        )
    if answer.status == 403:
        raise failed(
            f"{method} {path}: this key may not do it ({answer.problem})",
            "use a key of role operator, and a server without ARQSCOPE_READ_ONLY",
        )
    if answer.status == 409 and "read-only" in answer.problem:
        raise failed(
            f"{method} {path}: the server is read-only", "start it without ARQSCOPE_READ_ONLY"
        )
    if answer.status in (200, 201):
        raise failed(
            f"{method} {path}: the answer is not JSON; this is not arqscope",
            "give the address of the dashboard",
        )
    raise failed(
        f"{method} {path}: {answer.problem}",
        "look the X-Request-Id up in the server's log" if answer.status >= 500 else "see /docs",
    )


def _words(error: object) -> str:
    return (str(error) or type(error).__name__)[:200]


def path_of(*parts: str) -> str:
    """A path of *parts*, each encoded."""
    return "".join("/" + quote(part, safe="~:") for part in parts)


def by_command(command: str) -> Callable[[str], Awaitable[None]]:
    """A restart that runs *command*; ``{role}`` and ``{service}`` in it name the server."""

    async def run(role: str) -> None:
        words = [
            word.replace("{role}", role).replace("{service}", service_of(role))
            for word in shlex.split(command)
        ]
        try:
            process = await asyncio.create_subprocess_exec(
                *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
            async with asyncio.timeout(RESTART_S):
                output, _ = await process.communicate()
        except OSError as error:
            raise failed(
                f"the restart command does not start: {error}", "correct --restart-command"
            ) from error
        except TimeoutError as error:
            process.kill()
            raise failed(
                f"the restart command did not end within {RESTART_S:g} s",
                "correct --restart-command",
            ) from error
        if process.returncode:
            told = output.decode("utf-8", "replace").strip()[-200:]
            raise failed(
                f"the restart command ended with code {process.returncode}: {told}",
                "try it by hand; {service} in it becomes redis-streams, redis-queue",
            )

    return run


def by_shutdown(urls: Mapping[str, str]) -> Callable[[str], Awaitable[None]]:
    """The restart of an embedded stack: a server is told to stop, and the stack starts it again.

    *urls*: the servers that the stack starts; nobody would start another one again.
    """

    async def run(role: str) -> None:
        if role not in urls:
            raise impossible(
                f"{service_of(role)} is not of the embedded stack: nobody would start it again",
                "name the command that restarts it: --restart-command",
            )
        client = connect(urls[role], retries=0)
        try:
            await client.shutdown()
        except (RedisError, OSError):  # the connection ends with the server: that is the answer
            pass
        finally:
            await client.aclose()

    return run
