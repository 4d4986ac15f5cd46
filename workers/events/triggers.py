"""Trigger rules at work: each is a handler of its own, so its jobs are made once per event."""

from collections.abc import Awaitable, Callable, Iterable

from app.streams.events import Event
from app.streams.triggers import Rule
from workers.event_router import Registry
from workers.events.context import EventContext


def register(registry: Registry, rules: Iterable[Rule]) -> None:
    """Add a handler per rule; the id of its job derives from the event's and the rule's name.

    A processor killed between the two Redis servers enqueues again under the same id: one job.
    """
    for rule in rules:
        registry.on(rule.type)(_handler(rule))


def _handler(rule: Rule) -> Callable[[Event, EventContext], Awaitable[None]]:
    async def fire(event: Event, context: EventContext) -> None:
        if not rule.why_not(event):
            await context.enqueue(
                rule.function,
                rule.job_data(event),
                queue=rule.queue,
                delay_s=rule.delay_s,
                **rule.options,
            )

    fire.__name__ = rule.handler
    return fire
