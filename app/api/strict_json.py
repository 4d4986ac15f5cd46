"""JSON bodies, read strictly: what Redis or a worker could not hold is refused here, clearly."""

import contextlib
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from app.auth import MAX_BODY_BYTES
from app.door import idempotency
from app.errors import ArqscopeError

#: deeper than any sensible argument, shallower than what breaks a parser
MAX_DEPTH: Final = 32
#: digits of a number: beyond 64 bits and beyond every float, short of what takes long to parse
MAX_DIGITS: Final = 100


JSON: Final = "application/json"


class RefusedBody(HTTPException):
    """A body that is not acceptable JSON; carries code, field and remedy."""

    def __init__(self, status: int, code: str, message: str, hint: str = "") -> None:
        super().__init__(status, message)
        self.code = code
        self.hint = hint


def kind_of(content_type: str) -> str:
    """Return what a Content-Type header declares, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse(body: bytes) -> Any:
    """Parse a body; RefusedBody when it is not JSON or holds what JSON should not."""
    if len(body) > MAX_BODY_BYTES:
        raise RefusedBody(413, "too_large", f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedBody(400, "malformed", "the body is not UTF-8") from error
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise RefusedBody(400, "malformed", f"the body is not JSON: {str(error)[:200]}") from error
    _check(value)
    return value


def _refuse_constant(name: str) -> Any:
    raise RefusedBody(422, "invalid", f"{name} is not JSON", "leave it out, or send null")


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RefusedBody(
            422, "invalid", f"a number has {len(digits):,} digits", "send it as a string"
        )
    return int(digits)


def _parse_float(text: str) -> float:
    number = float(text)
    if len(text) > 10 * MAX_DIGITS or number in (float("inf"), float("-inf")):
        raise RefusedBody(422, "invalid", "a number is too large", "send it as a string")
    return number


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        shown = twice[:60].encode("utf-8", "replace").decode()
        raise RefusedBody(
            422, "invalid", f"the key {shown!r} appears twice in one object", "keep one of them"
        )
    return made


#: made once: ``json.loads`` with any keyword builds a decoder and its scanner for every body
_DECODER: Final = json.JSONDecoder(
    parse_constant=_refuse_constant,
    parse_int=_parse_int,
    parse_float=_parse_float,
    object_pairs_hook=_refuse_duplicates,
)


def _too_deep() -> RefusedBody:
    return RefusedBody(422, "invalid", f"the body is nested deeper than {MAX_DEPTH}", "flatten it")


def _check(value: Any) -> None:
    """Refuse what is too deep, and halves of surrogate pairs, which UTF-8 cannot hold."""
    level, depth = [value], 1
    while level:
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                if not item.isascii():
                    _check_text(item)
            elif kind is dict:
                for key in item:
                    if not key.isascii():
                        _check_text(key)
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            if depth > MAX_DEPTH and kind in (dict, list):
                raise _too_deep()
        level, depth = below, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RefusedBody(
            422, "invalid", "a text holds half a surrogate pair", "send well-formed Unicode"
        ) from error


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Parse the body strictly."""
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route whose JSON body is read by ``parse``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler: bound the body, require JSON, parse strictly, where none is read too."""
        handler = super().get_route_handler()
        takes_body = self.body_field is not None
        asked_once = frozenset(field.alias for field in self.dependant.query_params)

        async def strict(request: Request) -> Response:
            asked = _StrictRequest(request.scope, request.receive)
            names = [name for name, _ in request.query_params.multi_items() if name in asked_once]
            if len(names) != len(set(names)):  # which of them was meant?
                twice = next(name for name in names if names.count(name) > 1)
                raise RefusedBody(
                    422, "invalid", f"{twice} is given more than once", "give it once"
                )
            if request.method not in ("GET", "HEAD"):
                body = await asked.body()
                if len(body) > MAX_BODY_BYTES:
                    raise RefusedBody(413, "too_large", f"the body is over {MAX_BODY_BYTES} bytes")
                kind = kind_of(request.headers.get("content-type", ""))
                if body and kind != JSON:
                    raise RefusedBody(
                        400,
                        "malformed",
                        f"the body is declared as {kind[:60] or 'nothing'}, not as JSON",
                        "send the header Content-Type: application/json",
                    )
                if body and not takes_body and await asked.json() not in (None, {}):
                    raise RefusedBody(422, "invalid", "this address takes no body", "send none")
                key = request.headers.get("idempotency-key")
                if key is not None:
                    return await _once(asked, handler, key, body)
            return await handler(asked)

        return strict


async def _once(
    asked: Request,
    handler: Callable[[Request], Coroutine[Any, Any, Response]],
    key: str,
    body: bytes,
) -> Response:
    """Carry out a request with an idempotency key, or give the answer it had before."""
    actor = asked.scope.get("state", {}).get("actor")
    cache = asked.app.state.runtime.connections.cache
    digest = idempotency.digest_of(asked.method, asked.url.path, body)
    claimed = await idempotency.claim(cache, getattr(actor, "name", ""), key, digest)
    if isinstance(claimed, idempotency.KeptAnswer):
        return Response(
            claimed.body,
            claimed.status,
            {"Idempotency-Replayed": "true"},
            media_type=claimed.content_type,
        )
    try:
        answer = await handler(asked)
    except BaseException:
        with contextlib.suppress(ArqscopeError):
            await claimed.give_up()
        raise
    content = getattr(answer, "body", None)
    if answer.status_code < 300 and isinstance(content, bytes):
        kind = answer.headers.get("content-type", "application/json")
        # The work is done: an answer that cannot be kept is still the answer.
        with contextlib.suppress(ArqscopeError):
            await claimed.keep(idempotency.KeptAnswer(answer.status_code, content.decode(), kind))
    return answer
