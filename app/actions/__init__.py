"""Change Redis on an operator's behalf: the only part of app/ that does, and it asks and audits first.

Every action checks the actor's role and the read-only mode, writes its audit line, acts, and says
in an ActionReport whether anything changed. Asked twice, it acts once.
"""

from app.actions.asking import ActionReport, Actor, Connections, Role, may_act
from app.actions.events import notify, publish_event
from app.actions.jobs import abort_job, cancel_job, promote_job, submit_jobs
from app.actions.keys import CreatedKey, create_key, revoke_key
from app.actions.letters import archive_letter, discard_letter, retry_letter, undo_discard
from app.actions.queues import (
    clean_queue,
    control_workers,
    pause_queue,
    resume_queue,
    set_concurrency,
)

__all__ = [
    "ActionReport",
    "Actor",
    "Connections",
    "CreatedKey",
    "Role",
    "abort_job",
    "archive_letter",
    "cancel_job",
    "clean_queue",
    "control_workers",
    "create_key",
    "discard_letter",
    "may_act",
    "notify",
    "pause_queue",
    "promote_job",
    "publish_event",
    "resume_queue",
    "retry_letter",
    "revoke_key",
    "set_concurrency",
    "submit_jobs",
    "undo_discard",
]
