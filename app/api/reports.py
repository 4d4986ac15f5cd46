"""What an action did, as an answer."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from app.actions import ActionReport


class Report(BaseModel):
    """What an action did; ``changed`` false: it was so already."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "action": "pause_queue",
                    "changed": True,
                    "message": "async-processing is paused",
                    "detail": {},
                }
            ]
        }
    )

    action: str
    changed: bool
    message: str
    detail: dict[str, Any]


def report(done: ActionReport) -> Report:
    """Return *done* as an answer."""
    return Report(
        action=done.action, changed=done.changed, message=done.message, detail=dict(done.detail)
    )
