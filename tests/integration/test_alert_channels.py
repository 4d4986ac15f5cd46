"""Alert channels: what is sent, again until it is taken; and what is never connected to (S12)."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from app import actions, alerts, keys
from app.actions import Connections
from app.alerts import AlertState
from app.declarations import StreamPolicy
from app.errors import NotFound, SettingsError
from app.settings import Settings
from tests.letters import ANN, QUEUE, bury
from tests.listening import listening
from tests.waiting import until
from workers.alerts.channels import Channel, Deliveries, Sender, channels_of, message_of
from workers.alerts.notices import Alerts
from workers.alerts.watch import AlertWatch
from workers.egress import Egress
from workers.letters.rounds import DeadLetterProcessor
from workers.policies import Action, Rule


class FakeSender:
    """Takes what it is given, unless it is told to fail."""

    def __init__(self) -> None:
        self.error = ""
        self.messages: list[Mapping[str, str]] = []
        self.calls = 0

    async def send(self, channel: Channel, message: Mapping[str, str]) -> str:
        self.calls += 1
        if not self.error:
            self.messages.append(message)
        return self.error

    async def close(self) -> None:
        """Nothing is open."""


OPS = Channel("ops", "jsons://hooks.example.com/secret")


@pytest.fixture
def connections(queue_redis, streams_redis, cache_redis) -> Connections:
    return Connections(queue=queue_redis, streams=streams_redis, cache=cache_redis)


@pytest.fixture
def sender() -> FakeSender:
    return FakeSender()


@pytest.fixture
def deliveries(connections: Connections, sender: FakeSender) -> Deliveries:
    return Deliveries(connections.cache, [OPS], sender, lambda: True)


@pytest.fixture
def processor(connections: Connections, settings: Settings) -> DeadLetterProcessor:
    return DeadLetterProcessor(
        settings,
        connections.queue,
        connections.streams,
        connections.cache,
        (Rule(name="all", action=Action.ALERT),),
        channels=[OPS],
    )


async def make_due(connections: Connections) -> None:
    """Bring every delivery forward to now."""
    waiting = await connections.cache.zrange(keys.ALERTS_OUTBOX, 0, -1)
    if waiting:
        await connections.cache.zadd(keys.ALERTS_OUTBOX, dict.fromkeys(waiting, 1))


async def test_an_alert_is_sent_once_and_its_end_too(
    connections, settings, processor, deliveries, sender
):
    for n in range(50):
        await bury(connections.queue, f"j{n}", fingerprint="f1")
    await processor.round()
    assert await deliveries.round() == 1
    assert await deliveries.round() == 0
    await actions.change_cause(connections, settings, ANN, "f1", state="resolved")
    await processor.watch_once()
    assert await deliveries.round() == 1

    assert [m["title"] for m in sender.messages] == [
        "arqscope: WARNING RuntimeError in sync",
        "arqscope: RESOLVED RuntimeError in sync",
    ]
    assert [m["severity"] for m in sender.messages] == ["warning", "resolved"]
    assert await connections.cache.zcard(keys.ALERTS_OUTBOX) == 0


async def test_a_channel_that_fails_is_tried_again_later_and_says_so(
    connections, processor, deliveries, sender
):
    await bury(connections.queue, "j1", fingerprint="f1")
    await processor.round()
    sender.error = "the channel did not take it"

    assert await deliveries.round() == 0
    assert await deliveries.round() == 0  # not due yet
    assert sender.calls == 1
    due = await connections.cache.zrange(keys.ALERTS_OUTBOX, 0, -1, withscores=True)
    assert 3_000 < due[0][1] - time.time() * 1000 <= 5_000
    assert "tried 1 times" in (await alerts.newest(connections.cache))[0].delivery
    sender.error = ""
    await make_due(connections)
    assert await deliveries.round() == 1
    assert (await alerts.newest(connections.cache))[0].delivery == "ops: sent"
    assert await connections.cache.hlen(keys.ALERTS_TRIES) == 0


async def test_many_alerts_at_once_are_one_message(connections, processor, deliveries, sender):
    for n in range(40):
        await bury(connections.queue, f"j{n}", fingerprint=f"f{n}")
    await processor.round()

    assert await deliveries.round() == 40
    assert len(sender.messages) == 1
    assert sender.messages[0]["title"] == "arqscope: 40 alerts"
    assert "and 20 more alerts" in sender.messages[0]["body"]


async def test_acknowledged_and_silenced_alerts_are_not_sent(
    connections, settings, processor, deliveries, sender
):
    for name in ("f1", "f2", "f3"):
        await bury(connections.queue, name, fingerprint=name)
    await processor.round()
    by_cause = {alert.name: alert.id for alert in await alerts.newest(connections.cache)}
    where = (connections, settings, ANN)

    acked = await actions.acknowledge_alert(*where, by_cause["f1"], note="on it")
    again = await actions.acknowledge_alert(*where, by_cause["f1"])
    await actions.silence_alert(*where, by_cause["f2"], 600)
    with pytest.raises(NotFound):
        await actions.silence_alert(*where, "cause-0000", 600)
    await deliveries.round()

    assert (acked.changed, again.changed) == (True, False)
    assert len(sender.messages) == 1
    assert sender.messages[0]["title"] == "arqscope: WARNING RuntimeError in sync"
    states = {a.name: (a.state, a.actor) for a in await alerts.newest(connections.cache)}
    assert states["f1"] == (AlertState.ACKNOWLEDGED, "ann")
    assert states["f3"] == (AlertState.FIRING, "")


async def test_a_queue_without_workers_raises_an_alert_that_ends_when_one_comes(
    connections, settings, deliveries, sender, monkeypatch
):
    from app.alerts.rules import AlertRule

    rule = AlertRule(name="no worker", metric="workers_missing", above=0.5, for_s=60, clear_s=60)
    clock = [1_000_000.0]
    monkeypatch.setattr("workers.alerts.watch.time.time", lambda: clock[0])
    told = Alerts(connections.cache, ["ops"])
    watch = AlertWatch(connections.queue, connections.streams, told, [rule])
    await connections.queue.zadd(QUEUE, {"j1": 1})

    async def look(seconds: int) -> int:
        turned = 0
        for _ in range(0, seconds, 30):
            clock[0] += 30
            turned += await watch.look([QUEUE], settings.stream_names)
        return turned

    assert await look(60) == 0
    assert await look(60) == 1
    watch = AlertWatch(connections.queue, connections.streams, told, [rule])  # another leader
    assert await look(120) == 0
    found = (await alerts.newest(connections.cache))[0]
    assert (found.kind, found.state, found.source) == ("rule", AlertState.FIRING, QUEUE)
    now = await connections.queue.time()
    await connections.queue.hset(keys.worker("w1"), mapping={"role": "worker", "source": QUEUE})
    await connections.queue.zadd(keys.WORKERS, {"w1": now[0] * 1000})
    assert await look(120) == 1
    assert (await alerts.newest(connections.cache))[0].state is AlertState.RESOLVED


async def test_every_declared_stream_is_watched(connections, settings):
    settings.config_file.write_text(
        '[[alerts]]\nname = "behind"\nmetric = "lag_s"\nabove = 30\nfor_s = 0\n'
    )
    billing = StreamPolicy(name="billing", group="books")
    declared = settings.model_copy(update={"declared_streams": (billing,)})
    streams = connections.streams
    for stream in declared.stream_names:
        await streams.xgroup_create(stream, "books", "0", mkstream=True)
    await streams.xadd("billing", {"type": "bill.made", "data": "{}"}, id="1000-1")
    processor = DeadLetterProcessor(declared, connections.queue, streams, connections.cache)

    await processor.watch_once()

    told = {(a.kind, a.source) for a in await alerts.newest(connections.cache)}
    assert declared.stream_names == (declared.stream_name, "billing")
    assert told == {("rule", "billing")}


def test_channels_are_read_strictly_and_never_shown():
    def made(channels: str, hosts: str = "hooks.example.com") -> tuple[Channel, ...]:
        return channels_of(Settings(alert_channels=channels, alert_hosts=hosts))

    found = made("ops=jsons://hooks.example.com/secret mailto://a:b@example.com")
    assert [channel.name for channel in found] == ["ops", "channel-2"]
    assert "secret" not in repr(found)
    for channels, hosts in (
        ("nonsense", "h"),
        ("a=json://x a=json://y", "h"),
        ("a=json://x", ""),
    ):
        with pytest.raises(SettingsError):
            made(channels, hosts)


def test_a_digest_names_the_worst(connections):
    assert message_of([]) == {}


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "100.100.100.200", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0",
        "fd00::1", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "ff02::1", "nonsense", "",
    ],
)  # fmt: skip
def test_no_address_of_our_own_network_may_be_connected_to(address: str):
    assert not Egress.parse(["*"]).allows_address(address)


def test_a_network_the_operator_names_may_be_connected_to_but_never_metadata():
    egress = Egress.parse(["10.1.2.0/24", "169.254.0.0/16", "hooks.example.com", "*.example.org"])

    assert egress.allows_address("10.1.2.9")
    assert not egress.allows_address("10.1.3.9")
    assert not egress.allows_address("169.254.169.254")
    assert egress.allows_address("93.184.216.34")
    assert egress.allows_host("HOOKS.example.com.")
    assert egress.allows_host("a.example.org")
    assert not egress.allows_host("hooks.example.com.evil.net")
    assert not egress.allows_host("localhost")
    assert not Egress.parse([]).allows_address("93.184.216.34")


@pytest.fixture
def listen() -> Iterator[Callable[[str], Any]]:
    with contextlib.ExitStack() as opened:
        yield lambda address: opened.enter_context(listening(address))


MESSAGE = {"title": "t", "body": "b", "severity": "warning"}


async def test_a_channel_gets_the_message_and_every_failure_is_told(listen):
    inside, outside = listen("127.0.0.1"), listen("127.0.0.2")
    inside.elsewhere = f"http://127.0.0.2:{outside.server_port}/internal"
    patient = Sender(["127.0.0.1/32"], timeout_s=30.0)  # a loaded machine is slow, not broken
    hasty = Sender(["127.0.0.1/32"], timeout_s=1.0)
    at = f"json://127.0.0.1:{inside.server_port}"

    async def send(path: str, sender: Sender = patient) -> str:
        return await sender.send(Channel("c", at + path), MESSAGE)

    try:
        assert await send("/ok") == ""
        assert json.loads(inside.hits[0][1])["message"] == "b"
        assert [bool(await send(path)) for path in ("/500", "/429", "/redirect")] == [True] * 3
        assert outside.hits == []
        assert await send("/endless") != ""
        assert await send("/ok") == ""
        assert "no answer" in await send("/silent", hasty)
        assert hasty._process is None
    finally:
        await patient.close()
        await hasty.close()


async def test_an_answer_nobody_waited_for_is_not_taken_for_the_next_ones(listen):
    server = listen("127.0.0.1")
    sender = Sender(["127.0.0.1/32"], timeout_s=60.0)
    at = f"json://127.0.0.1:{server.server_port}"

    async def is_hit() -> bool:
        return bool(server.hits)

    try:
        given_up = asyncio.create_task(sender.send(Channel("c", at + "/silent"), MESSAGE))
        await until(is_hit, timeout_s=30)
        given_up.cancel()
        await asyncio.wait([given_up])
        server.stopped.set()

        assert await sender.send(Channel("c", at + "/500"), MESSAGE) != ""
        assert await sender.send(Channel("c", at + "/ok"), MESSAGE) == ""
    finally:
        await sender.close()


@pytest.mark.timeout(300)
async def test_nothing_inside_is_ever_reached(listen):
    """
    Row S12: loopback in every notation, schemes that are no channels, names that lead inside.
    """
    inside = listen("127.0.0.1")
    port = inside.server_port
    sender = Sender(["hooks.example.com", "localhost", "*.localhost"], timeout_s=20.0)
    urls = [
        *(f"json://{host}:{port}/x" for host in (
            "127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "0",
            "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "a.localhost",
            "hooks.example.com@127.0.0.1", "169.254.169.254",
        )),
        f"xml://user:pass@127.0.0.1:{port}/", f"mailto://a:b@127.0.0.1:{port}?smtp=127.0.0.1",
        "file:///etc/passwd", f"redis://127.0.0.1:{port}", f"gopher://127.0.0.1:{port}/_x",
        f"http://127.0.0.1:{port}/x", "dbus://", "syslog://", f"mqtt://127.0.0.1:{port}/topic",
    ]  # fmt: skip
    try:
        answers = [await sender.send(Channel("c", url), MESSAGE) for url in urls]
    finally:
        await sender.close()

    assert [url for url, answer in zip(urls, answers, strict=True) if not answer] == []
    assert inside.hits == []


async def test_a_sender_that_cannot_start_is_an_error_not_a_crash(monkeypatch):
    monkeypatch.setattr("workers.alerts.channels.sys.executable", "/nonexistent/python")

    assert "failed" in await Sender(["h"]).send(OPS, MESSAGE)
    await asyncio.sleep(0)
