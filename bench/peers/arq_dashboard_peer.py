"""arq-dashboard, in a venv of its own: how long its first page of jobs takes over HTTP.

``python arq_dashboard_peer.py '{"port": …, "queue": …, "web_port": …}'`` on a Redis that is filled already.
"""

import json
import sys
import threading
import time
import urllib.request
from typing import Any


def read(raw: bytes) -> Any:
    """Decode what the benchmark filled in: our JSON, without its prefix."""
    return json.loads(raw[3:])


def main() -> None:
    """Serve, ask once, print the milliseconds as JSON."""
    options = json.loads(sys.argv[1])
    import arq_dashboard.main as dashboard
    import uvicorn
    from arq.connections import RedisSettings
    from arq_dashboard.core import settings

    settings.ARQ_QUEUES = {options["queue"]: RedisSettings(port=options["port"])}
    settings.ARQ_DESERIALIZER = read
    settings.LOG_LEVEL = "ERROR"
    server = uvicorn.Server(
        uvicorn.Config(dashboard.create_app(), port=options["web_port"], log_level="error")
    )
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    asked = urllib.request.Request(
        f"http://127.0.0.1:{options['web_port']}/api/jobs/",
        headers={"arq-queue-name": options["queue"]},
    )
    began = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=300) as answer:
        page = json.load(answer)
    ms = (time.perf_counter() - began) * 1000
    if not page["jobs"]:
        raise SystemExit("arq-dashboard shows no job")
    print(json.dumps({"ms": ms, "jobs": page["total"]}))
    server.should_exit = True


main()
