"""What an action did, as an answer."""

from typing import Any

from pydantic import BaseModel

from app.actions import ActionReport


class Report(BaseModel):
    """What an action did; ``changed`` false: it was so already."""

    action: str
    changed: bool
    message: str
    detail: dict[str, Any]


def report(done: ActionReport) -> Report:
    """Return *done* as an answer."""
    return Report(
        action=done.action, changed=done.changed, message=done.message, detail=dict(done.detail)
    )
