"""What the system connects to on its own: alert channels that lead inside. Row S12 of FAULTS.md."""

import time
from pathlib import Path
from typing import Final

import pytest

from tests.faults.conftest import Row
from tests.faults.rig import sized
from tests.listening import listening
from workers.alerts.channels import Channel, Sender

MESSAGE: Final = {"title": "t", "body": "b", "severity": "warning"}
#: the sending process' name server: names that lead inside, and one whose answer changes
NAMES: Final = """
import pathlib, socket
resolve, asked = socket.getaddrinfo, pathlib.Path({asked!r})
def answer(host, *more, **other):
    if host == "rebind.example.com":
        times = len(asked.read_bytes()) if asked.exists() else 0
        asked.write_bytes(b"x" * (times + 1))
        host = "127.0.0.2" if times % 2 == 0 else "127.0.0.1"
    elif str(host).endswith("example.com"):
        host = "169.254.169.254" if host.startswith("meta") else "127.0.0.1"
    return resolve(host, *more, **other)
socket.getaddrinfo = answer
"""
INWARD: Final = (
    "127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "0", "0.0.0.0",
    "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "a.localhost", "hooks.example.com@127.0.0.1",
    "hooks.example.com", "inside.example.com", "meta.example.com", "169.254.169.254", "[fd00:ec2::254]",
)  # fmt: skip
OTHERWISE: Final = (
    "xml://user:pass@127.0.0.1:{port}/", "mailto://a:b@127.0.0.1:{port}?smtp=127.0.0.1", "file:///etc/passwd",
    "redis://127.0.0.1:{port}", "gopher://127.0.0.1:{port}/_x", "http://127.0.0.1:{port}/x", "dbus://",
    "syslog://", "mqtt://127.0.0.1:{port}/topic", "json://127.0.0.2:{port}/redirect",
)  # fmt: skip


@pytest.mark.row("S12")
@pytest.mark.timeout(600)
async def test_an_alert_channel_never_leads_inside(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    127.0.0.1 is the inside; 127.0.0.2 is what the operator allowed, so that the way there is known to work.
    """
    (tmp_path / "sitecustomize.py").write_text(NAMES.format(asked=str(tmp_path / "asked")))
    monkeypatch.syspath_prepend(str(tmp_path))
    patient = Sender(["*.example.com", "localhost", "*.localhost", "127.0.0.2/32"], timeout_s=30)
    hasty = Sender(["127.0.0.2/32"], timeout_s=2)
    with listening("127.0.0.1") as inside, listening("127.0.0.2", inside.server_port) as allowed:
        port = inside.server_port
        allowed.elsewhere = f"http://127.0.0.1:{port}/inside"

        async def send(url: str, sender: Sender = patient) -> str:
            return await sender.send(Channel("c", url), MESSAGE)

        try:
            urls = [f"json://{host}:{port}/x" for host in INWARD]
            urls += [url.format(port=port) for url in OTHERWISE]
            taken, tries = [], 0
            for _ in range(sized(20, 1)):
                answers = [await send(url) for url in urls]
                taken += [url for url, answer in zip(urls, answers, strict=True) if not answer]
                tries += len(urls)

            turns = sized(50, 2)
            rebound = [await send(f"json://rebind.example.com:{port}/x") for _ in range(2 * turns)]

            began = time.monotonic()
            endless = await send(f"json://127.0.0.2:{port}/endless")
            endless_s = time.monotonic() - began
            began = time.monotonic()
            slow = [
                await send(f"json://127.0.0.2:{port}/{kind}", hasty) for kind in ("drip", "silent")
            ]
            slow_s = time.monotonic() - began
            after = await send(f"json://127.0.0.2:{port}/after")
        finally:
            await patient.close()
            await hasty.close()

        row.figure(
            tries=tries + 2 * turns,
            hits=len(inside.hits),
            taken=len(taken),
            allowed=len(allowed.hits),
            endless_s=endless_s,
            endless_mb=allowed.sent_bytes / 1_048_576,
            slow_s=slow_s,
        )
        assert inside.hits == []
        assert taken == []
        assert [bool(answer) for answer in rebound] == [False, True] * turns
        assert endless
        assert all("no answer within 2 s" in answer for answer in slow)
        assert after == ""
        assert allowed.hits[-1][0] == "/after"
        assert allowed.sent_bytes < 16 * 1_048_576
