"""Calls of a server's HTTP API, with a key.

Blocking calls of the standard library, so that they work inside and outside of a running loop. The key
travels in a header, never to another host, and is never shown.
"""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from app.errors import InvalidRequest, RedisUnavailable
from app.scope import answers

TIMEOUT_S: Final = 15.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is not carried to wherever an answer points."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse."""


class Caller:
    """Asks one server; what it refuses is raised as the error it is."""

    def __init__(self, url: str, key: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidRequest(
                f"url={url!r} is not an address of a server", field="url", hint="http://host:8009"
            )
        if parts.username or parts.password:
            raise InvalidRequest("the address holds a password", field="url", hint="give key=…")
        self._base = url.rstrip("/").removesuffix("/admin/queues").removesuffix("/admin")
        self.where = self._base
        self.host = parts.hostname
        self._headers = {"Accept": "application/json"} | ({"X-API-Key": key} if key else {})
        self._opener = urllib.request.build_opener(_NoRedirect)

    def _ask(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[bytes, Any]:
        said = {k: v for k, v in query.items() if v not in (None, "")}
        address = f"{self._base}{path}" + (f"?{urlencode(said)}" if said else "")
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({"Content-Type": "application/json"} if data else {})
        request = urllib.request.Request(  # noqa: S310 - http or https, checked above
            address, data=data if data is not None else (b"" if method == "POST" else None),
            headers=headers, method=method,
        )  # fmt: skip
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            raise answers.error_of(error, self.where) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RedisUnavailable(f"{self.where} does not answer: {error}") from error

    def _get(self, path: str, **query: Any) -> Any:
        return answers.json_of(self._ask("GET", path, **query)[0])

    def _post(self, path: str, body: Any = None, **query: Any) -> Any:
        return answers.json_of(self._ask("POST", path, body, **query)[0])
