"""A listener for tests of alert channels: counts what reaches it and answers as the path says."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Listener(BaseHTTPRequestHandler):
    """``/redirect``, ``/endless``, ``/silent``, ``/drip``, a status as ``/500``, or 200."""

    def do_POST(self) -> None:
        server: Any = self.server
        length = int(self.headers.get("Content-Length") or 0)
        server.hits.append((self.path, self.rfile.read(length)))
        if self.path == "/redirect":
            self.send_response(307)
            self.send_header("Location", server.elsewhere)
            self.end_headers()
        elif self.path in ("/endless", "/drip"):
            self.send_response(200)
            self.end_headers()
            self._go_on(b"x" * (65_536 if self.path == "/endless" else 1))
        elif self.path == "/silent":
            server.stopped.wait(30)
        else:
            self.send_response(int(self.path[1:]) if self.path[1:].isdigit() else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _go_on(self, piece: bytes) -> None:
        """Answer until the other side has enough."""
        server: Any = self.server
        try:
            while not server.stopped.wait(0 if len(piece) > 1 else 0.1):
                self.wfile.write(piece)
                server.sent_bytes += len(piece)
        except OSError:
            return

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def listening(address: str, port: int = 0) -> Iterator[Any]:
    """Listen on *address*; ``hits`` is what came, ``elsewhere`` where ``/redirect`` leads."""
    server: Any = ThreadingHTTPServer((address, port), _Listener)
    server.hits, server.stopped, server.elsewhere, server.sent_bytes = [], threading.Event(), "", 0
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
