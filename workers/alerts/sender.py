"""The process that sends messages to alert channels: one JSON line in, one out, nothing else.

A process of its own, so that its sockets can be fenced (``egress``) whatever apprise and its
libraries do, and so that a channel that hangs is ended by a kill.
"""

import json
import resource
import signal
import sys
from typing import Any, Final

import apprise
import requests

from app.payloads.codec import safe_str
from workers.egress import Blocked, Egress, Meter, install

#: apprise's schemes that speak HTTP through requests or SMTP through smtplib: both end in the sockets
#: ``egress`` fences. Others run programs, speak on buses of the desktop or open sockets in C.
SCHEMES: Final = frozenset(
    (
        "json",
        "jsons",
        "xml",
        "xmls",
        "form",
        "forms",
        "slack",
        "discord",
        "workflows",
        "msteams",
        "mmost",
        "mmosts",
        "rocket",
        "rockets",
        "ntfy",
        "ntfys",
        "gotify",
        "gotifys",
        "matrix",
        "matrixs",
        "tgram",
        "pagerduty",
        "opsgenie",
        "gchat",
        "mailto",
        "mailtos",
    )
)
_MEMORY_BYTES: Final = 1 << 30
#: s one message may take when nobody watches any more
ALONE_S: Final = 30
_TYPES: Final = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
    "resolved": apprise.NotifyType.SUCCESS,
}


def send(request: dict[str, Any]) -> str:
    """Send one message; returns why it was not sent, empty when it was."""
    url = str(request["url"])
    scheme = url.partition("://")[0].casefold()
    if scheme not in SCHEMES:
        return f"{scheme[:20]}:// is not permitted; use one of {', '.join(sorted(SCHEMES))}"
    asset = apprise.AppriseAsset(async_mode=False, plugin_paths=[], app_id="arqscope")
    sender = apprise.Apprise(asset=asset)
    if not sender.add(url):
        return f"apprise does not understand this {scheme}:// address"
    done = sender.notify(
        title=str(request["title"]),
        body=str(request["body"]),
        notify_type=_TYPES.get(str(request.get("severity")), apprise.NotifyType.WARNING),
        body_format=apprise.NotifyFormat.TEXT,
    )
    return "" if done else "the channel did not take it"


def main() -> None:
    """Answer requests until stdin closes; the first line names the allowed hosts."""
    hosts = json.loads(sys.stdin.readline())["hosts"]
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    meter = Meter()
    install(Egress.parse(hosts), meter)
    # a redirect may lead anywhere, and what a hook redirects to is not what was configured
    requests.Session.get_redirect_target = lambda *_: None  # type: ignore[method-assign]
    _answer({"ready": True})
    for line in sys.stdin:
        meter.received_bytes = 0
        signal.alarm(ALONE_S)  # whoever would kill us may be dead
        try:
            error = send(json.loads(line))
        except Blocked as blocked:
            error = safe_str(blocked, 200)
        except Exception as failure:
            error = f"{type(failure).__name__}: {safe_str(failure, 200)}"
        signal.alarm(0)
        _answer({"error": error})


def _answer(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
