"""Alert channels: deliver what waits in the outbox, again and again until a channel takes it.

Runs beside the rounds of the dead-letter processor and never holds them up: sending happens in a
process of its own (``sender``), which is killed when a channel does not answer in time.
"""

import asyncio
import contextlib
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app import alerts, keys
from app.alerts import Alert
from app.errors import ArqscopeError, SettingsError
from app.payloads.codec import safe_str
from app.settings import Settings

log = logging.getLogger("arqscope.alerts")

SEND_TIMEOUT_S: Final = 5.0
START_TIMEOUT_S: Final = 30.0
ROUND_S: Final = 1.0
#: s before a delivery is tried again: doubled each time, with jitter
BACKOFF_S: Final = 5.0
BACKOFF_CAP_S: Final = 600.0
#: a day or so
MAX_TRIES: Final = 150
#: deliveries looked at in one round; those of one channel go out as one message
BATCH: Final = 100
MAX_LISTED: Final = 20
#: an idle sender is ended after this long: it holds 40 MB
IDLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Channel:
    """Where alerts go: a name and an apprise address, which may hold secrets."""

    name: str
    url: str

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self.url.partition('://')[0]}://***)"


def channels_of(settings: Settings) -> tuple[Channel, ...]:
    """Read ``ARQSCOPE_ALERT_CHANNELS``; SettingsError when an entry cannot be used."""
    secret = settings.alert_channels
    found: list[Channel] = []
    for number, entry in enumerate((secret.get_secret_value() if secret else "").split(), 1):
        name, equals, url = entry.partition("=")
        if not equals or "://" in name:
            name, url = f"channel-{number}", entry
        if "://" not in url or "|" in name or not name:
            raise SettingsError(
                f"ARQSCOPE_ALERT_CHANNELS, entry {number}: write name=scheme://…, separated by spaces"
            )
        found.append(Channel(name[:40], url))
    if found and not settings.alert_host_list:
        raise SettingsError(
            "ARQSCOPE_ALERT_CHANNELS is set, but ARQSCOPE_ALERT_HOSTS names no host they may reach"
        )
    if len({channel.name for channel in found}) < len(found):
        raise SettingsError("ARQSCOPE_ALERT_CHANNELS: two channels have the same name")
    return tuple(found)


class Sending(Protocol):
    """Sends one message to one channel; returns why it could not, empty when it could."""

    async def send(self, channel: Channel, message: Mapping[str, str]) -> str: ...  # noqa: D102
    async def close(self) -> None: ...  # noqa: D102


class Sender:
    """The sending process: started when needed, killed when it hangs, ended when idle."""

    def __init__(self, hosts: Sequence[str], timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._hosts = list(hosts)
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._used_at = 0.0

    async def send(self, channel: Channel, message: Mapping[str, str]) -> str:
        """Send *message*; a process that does not answer in time, or is not waited for, is killed."""
        try:
            process = await self._started()
            async with asyncio.timeout(self._timeout_s):
                answer = await _ask(process, {"url": channel.url, **message})
        except TimeoutError:
            await self.close()
            return f"no answer within {self._timeout_s:g} s"
        except asyncio.CancelledError:
            await self.close()  # its answer would be taken for that to the next message
            raise
        except (OSError, ValueError) as error:
            await self.close()
            return f"the sending process failed: {safe_str(error, 100)}"
        self._used_at = time.monotonic()
        return str(answer.get("error", ""))

    async def rest(self) -> None:
        """End the process when it has had nothing to do for a while."""
        if self._process is not None and time.monotonic() - self._used_at > IDLE_S:
            await self.close()

    async def close(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        # a plain environment: no proxy, no netrc, none of our secrets
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "workers.alerts.sender",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PYTHONPATH": ":".join(sys.path), "NETRC": "/dev/null", "NO_PROXY": "*"},
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            answer = await _ask(process, {"hosts": self._hosts})
        if not answer.get("ready"):
            raise ValueError("it did not start")
        return process


async def _ask(process: asyncio.subprocess.Process, request: Mapping[str, Any]) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None:
        raise ValueError("it has no pipes")
    process.stdin.write(json.dumps(request).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line:
        raise ValueError("it ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


class Deliveries:
    """Sends what waits in the outbox while *leads* says so."""

    def __init__(
        self,
        cache: Redis,
        channels: Sequence[Channel],
        sender: Sending,
        leads: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._channels = {channel.name: channel for channel in channels}
        self._sender = sender
        self._leads = leads
        self.trouble = ""
        self.sent = 0

    async def run(self) -> None:
        """Deliver until cancelled; no error ends it, every error shows."""
        try:
            while True:
                try:
                    if self._leads():
                        await self.round()
                    if isinstance(self._sender, Sender):
                        await self._sender.rest()
                except (ArqscopeError, RedisError, OSError) as error:
                    self._on_trouble(safe_str(error, 200))
                except Exception:
                    log.exception("alert delivery failed")
                await asyncio.sleep(ROUND_S)
        finally:
            await self._sender.close()

    async def round(self) -> int:
        """Send what is due, one message per channel; returns how many deliveries went out."""
        now_ms = time.time() * 1000
        due: Any = await self._cache.zrangebyscore(
            keys.ALERTS_OUTBOX, "-inf", now_ms, start=0, num=BATCH
        )
        by_channel: dict[str, list[str]] = {}
        for delivery in due:
            by_channel.setdefault(str(delivery).partition("|")[0], []).append(str(delivery))
        sent = 0
        for name, deliveries in by_channel.items():
            channel = self._channels.get(name)
            if channel is None:  # it was taken out of the configuration
                await self._done(deliveries, [], "")
            else:
                sent += await self._deliver(channel, deliveries)
        return sent

    async def _deliver(self, channel: Channel, deliveries: Sequence[str]) -> int:
        names = [delivery.split("|")[1] for delivery in deliveries]
        found = await alerts.read(self._cache, names)
        told = [
            (alert, delivery.rpartition("|")[2])
            for alert, delivery in zip(found, deliveries, strict=True)
            if alert is not None and not _is_hushed(alert, delivery)
        ]
        error = await self._sender.send(channel, message_of(told)) if told else ""
        if error:
            self._on_trouble(f"{channel.name}: {error}")
            await self._again(channel, deliveries, names, error)
            return 0
        self.trouble = ""
        self.sent += len(told)
        await self._done(deliveries, names, f"{channel.name}: sent")
        return len(told)

    async def _done(self, deliveries: Sequence[str], names: Sequence[str], told: str) -> None:
        await self._cache.zrem(keys.ALERTS_OUTBOX, *deliveries)
        await self._cache.hdel(keys.ALERTS_TRIES, *deliveries)  # type: ignore[misc]
        await self._note(names, told)

    async def _again(
        self, channel: Channel, deliveries: Sequence[str], names: Sequence[str], error: str
    ) -> None:
        async with self._cache.pipeline(transaction=False) as pipe:
            for delivery in deliveries:
                pipe.hincrby(keys.ALERTS_TRIES, delivery, 1)
            tries = [int(n) for n in await pipe.execute()]
        # the batch goes on together; jitter keeps several channels of one host apart
        pause_s = min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(min(tries) - 1, 16))
        due_ms = time.time() * 1000 + 1000 * pause_s * random.uniform(0.7, 1.0)  # noqa: S311
        spent = [d for d, n in zip(deliveries, tries, strict=True) if n >= MAX_TRIES]
        later = {d: due_ms for d in deliveries if d not in spent}
        if spent:
            log.error("alerts not delivered", extra={"channel": channel.name, "count": len(spent)})
            await self._done(spent, [], "")
        if later:
            await self._cache.zadd(keys.ALERTS_OUTBOX, later, xx=True)
        await self._note(names, f"{channel.name}: {error} (tried {max(tries)} times)")

    async def _note(self, names: Sequence[str], told: str) -> None:
        if not names:
            return
        async with self._cache.pipeline(transaction=False) as pipe:
            for name in dict.fromkeys(names):
                pipe.hset(keys.alert(name), "delivery", told[:300])
                pipe.pexpire(keys.alert(name), alerts.ALERT_TTL_S * 1000)
            await pipe.execute()

    def _on_trouble(self, text: str) -> None:
        if text != self.trouble:
            log.warning("alerts wait", extra={"trouble": text})
        self.trouble = text


def _is_hushed(alert: Alert, delivery: str) -> bool:
    """Whether somebody acknowledged or silenced *alert* after the delivery was put."""
    if time.time() * 1000 < alert.silenced_until_ms:
        return True
    return delivery.endswith("|firing") and alert.state is not alerts.AlertState.FIRING


def message_of(told: Sequence[tuple[Alert, str]]) -> dict[str, str]:
    """One message about one alert, or a digest of many: (alert, ``firing`` or ``resolved``)."""
    if not told:
        return {}
    ranks = {"info": 0, "warning": 1, "critical": 2}
    if all(change == "resolved" for _, change in told):
        severity = "resolved"
    else:
        firing = [alert.severity for alert, change in told if change == "firing"]
        severity = max(firing, key=lambda word: ranks.get(word, 0))
    lines = [f"{_word(a, change)} {a.title}\n  {a.source}: {a.detail}" for a, change in told]
    more = len(lines) - MAX_LISTED
    if more > 0:
        lines = [*lines[:MAX_LISTED], f"and {more} more alerts"]
    alert, change = told[0]
    title = f"{_word(alert, change)} {alert.title}" if len(told) == 1 else f"{len(told)} alerts"
    return {"title": f"arqscope: {title}"[:200], "body": "\n".join(lines), "severity": severity}


def _word(alert: Alert, change: str) -> str:
    return "RESOLVED" if change == "resolved" else alert.severity.upper()
