"""Change Redis on an operator's behalf: the only part of app/ that does, and it asks and audits first.

Every action checks the actor's role and the read-only mode, writes its audit line, acts, and says
in an ActionReport whether anything changed. Asked twice, it acts once.
"""

from app.actions.alerts import acknowledge_alert, silence_alert
from app.actions.asking import ActionReport, Actor, Role, may_act
from app.actions.causes import change_cause
from app.actions.deploys import mark_deploy
from app.actions.events import notify, publish_event, publish_events
from app.actions.jobs import abort_job, cancel_job, promote_job, reschedule_job, submit_jobs
from app.actions.keys import CreatedKey, create_key, revoke_key
from app.actions.letters import (
    archive_letter,
    discard_letter,
    import_letters,
    retry_letter,
    undo_discard,
)
from app.actions.operations import (
    abort_operation,
    pause_operation,
    resume_operation,
    start_operation,
)
from app.actions.queues import (
    clean_queue,
    control_workers,
    pause_queue,
    resume_queue,
    set_concurrency,
)
from app.actions.streams import change_pending
from app.wire.connections import Connections

__all__ = [
    "ActionReport",
    "Actor",
    "Connections",
    "CreatedKey",
    "Role",
    "abort_job",
    "abort_operation",
    "acknowledge_alert",
    "archive_letter",
    "cancel_job",
    "change_cause",
    "change_pending",
    "clean_queue",
    "control_workers",
    "create_key",
    "discard_letter",
    "import_letters",
    "mark_deploy",
    "may_act",
    "notify",
    "pause_operation",
    "pause_queue",
    "promote_job",
    "publish_event",
    "publish_events",
    "reschedule_job",
    "resume_operation",
    "resume_queue",
    "retry_letter",
    "revoke_key",
    "set_concurrency",
    "silence_alert",
    "start_operation",
    "submit_jobs",
    "undo_discard",
]
