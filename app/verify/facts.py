"""Checks of events and notifications: published, handled once, heard by who listens."""

import contextlib
from collections.abc import AsyncIterator

from app.verify.deployment import Deployment, path_of
from app.verify.listening import Listening, listening
from app.verify.proofs import failed
from app.verify.work import fresh_id

_TEXT = "arqscope verify"


@contextlib.asynccontextmanager
async def _ear(to: Deployment, channel: str, since: str = "") -> AsyncIterator[Listening]:
    """Listen to *channel*; CheckFailed when nobody can."""
    url = f"{to.url.rstrip('/')}{path_of('notifications', channel)}{since}"
    remedy = "look whether the cache Redis (redis) answers; a proxy must not buffer this path"
    stack = contextlib.AsyncExitStack()
    try:
        ear = await stack.enter_async_context(listening(url, to.key, min(to.patience_s, 10.0)))
    except (OSError, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise failed(f"nobody can listen to notifications ({why})", remedy) from error
    async with stack:
        if ear.status != 200:
            raise failed(f"nobody can listen to notifications: {ear.status}", remedy)
        yield ear


async def flow(to: Deployment) -> str:
    """An event is appended once, taken by the event processor, and its effect seen once."""
    user = fresh_id("user")
    event = {
        "type": "notification.send",
        "userId": user,
        "eventId": user,
        "data": {"message": f"{_TEXT} {user}"},
    }
    first = await to.post("/events", event)
    again = await to.post("/events", event)
    if first.get("existed") or not again.get("existed") or again.get("id") != first.get("id"):
        raise failed(
            "an event published twice under one eventId was appended twice",
            "two servers that use different Redis are behind this address",
        )
    entry_path = path_of("streams", first["stream"], "entries", first["id"])
    wanted = f"{_TEXT} {user}".encode()
    async with _ear(to, f"user:{user}", "?since=0") as ear:
        is_done = await ear.until(wanted, to.patience_s)
        times = ear.text.count(wanted)
    entry = await to.get(entry_path)
    if entry.get("dead_letter"):
        raise failed(
            f"the event {first['id']} is a dead letter",
            f"GET {path_of('dead-letters', first['stream'], first['id'])} says why",
        )
    if not is_done and entry.get("pending"):
        raise failed(
            f"the event was taken and is not handled after {to.patience_s:g} s",
            "look at the log of the event processor: it hangs, or died while it had it",
        )
    if not is_done:
        raise failed(
            f"the event was appended and nobody handled it within {to.patience_s:g} s",
            "start the event processor: arqscope events",
        )
    if times != 1:
        raise failed(
            f"the effect of one event was seen {times} times",
            "look for event processors of different versions on this group",
        )
    return f"{first['id']} was appended once, handled, and its effect seen once"


async def heard(to: Deployment) -> str:
    """A notification reaches who listens, over pub/sub and server-sent events."""
    channel = f"user:{fresh_id('user')}"
    async with _ear(to, channel) as ear:
        if not await ear.until(b"retry:", to.patience_s):
            raise failed(
                "a listener is let in and told nothing",
                "a proxy must not buffer this path (X-Accel-Buffering: no)",
            )
        await to.post(path_of("notifications", channel), {"message": _TEXT})
        if not await ear.until(_TEXT.encode(), to.patience_s):
            raise failed(
                f"a notification was sent and not heard within {to.patience_s:g} s",
                "every server must use the same cache Redis; a proxy must not buffer this path",
            )
    return f"sent to {channel}, and heard there"
