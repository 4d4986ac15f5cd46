"""The wire: what the browser of a served page is told, as text that is made once for all who are told the same.

It goes out as an event of the page's one component, beside Bokeh's document: no document is locked, compared
or encoded for it.
"""

import asyncio
import functools
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from bokeh.document import Document
from bokeh.protocol.messages.patch_doc import patch_doc
from panel.models.esm import ReactiveESM

_BEFORE: Final = (
    '{"events":[{"kind":"MessageSent","msg_type":"bokeh_event","msg_data":{"type":"event",'
    '"name":"esm_event","values":{"type":"map","entries":[["model",{"id":"'
)
_BETWEEN: Final = '"}],["data",['
_AFTER: Final = "]]]}}}]}"


@functools.lru_cache(maxsize=96)
def _quoted(text: str) -> str:
    """*text* as JSON; those who see the same share the object, so that this is a look-up."""
    return json.dumps(text)


class Wire:
    """To the browsers of one session; *taken* is called when they have taken what they were sent."""

    def __init__(self, document: Document, taken: Callable[[], object]) -> None:
        self._document, self._taken = document, taken
        self._sending: asyncio.Task[None] | None = None
        self._model_id = ""

    @property
    def _session(self) -> Any:
        return getattr(self._document.session_context, "session", None)

    @property
    def is_watched(self) -> bool:
        """Whether a browser is connected."""
        session = self._session
        return session is not None and session.connection_count > 0

    @property
    def is_busy(self) -> bool:
        """Whether what was sent last is still on its way."""
        return self._sending is not None

    def send(self, said: Mapping[str, str]) -> None:
        """Send names and texts, after what was sent before; ``taken`` is called when nothing waits."""
        if not self._model_id:
            roots = self._document.roots
            self._model_id = next(root.id for root in roots if isinstance(root, ReactiveESM))
        pairs = ",".join(f"{_quoted(name)},{_quoted(text)}" for name, text in said.items())
        content = f"{_BEFORE}{self._model_id}{_BETWEEN}{pairs}{_AFTER}"
        before = self._sending
        self._sending = asyncio.get_running_loop().create_task(self._write(content, before))

    async def _write(self, content: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        for connection in list(self._session._subscribed_connections if self._session else ()):
            header = f'{{"msgid":"{secrets.token_hex(8)}","msgtype":"PATCH-DOC"}}'
            await connection._socket.send_message(_Ready(header, content))
        if self._sending is asyncio.current_task():
            self._sending = None
            self._taken()

    def close(self) -> None:
        """Send nothing any more."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None


class _Ready(patch_doc):
    """A message that is text already."""

    def __init__(self, header_json: str, content_json: str) -> None:
        super().__init__(json.loads(header_json), {}, {"events": []})
        self._header_json, self._content_json = header_json, content_json


__all__ = ["Wire"]
