"""Every Redis key and channel this project uses, with its type, owner, TTL and growth bound.

arq's own keys keep arq's names and formats so that stock producers and workers share a queue with
ours; they are imported from arq. Ours start with ``arqscope:`` and carry the queue (or stream) as a
hash tag. Every key below says: type · who writes · TTL · what bounds its growth.
"""

from typing import Final

from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    result_key_prefix,
    retry_key_prefix,
)

# --- arq's keys, on the queue Redis -----------------------------------------------------------

#: ZSET id → ms of the abort call · Job.abort · none · the engine's janitor drops entries > 1 h old
ARQ_ABORT: Final = abort_jobs_ss
ARQ_JOB: Final = job_key_prefix
ARQ_RESULT: Final = result_key_prefix
ARQ_IN_PROGRESS: Final = in_progress_key_prefix
ARQ_RETRY: Final = retry_key_prefix


def arq_job(job_id: str) -> str:
    """STRING payload of a waiting or running job · producer · ≥ 365 d · one per queued job.

    That of a dead letter's retry has no TTL: it goes with the job or the letter's reopening.
    """
    return f"{ARQ_JOB}{job_id}"


def arq_result(job_id: str) -> str:
    """STRING result of a finished job · engine · keep_result · one per recent job."""
    return f"{ARQ_RESULT}{job_id}"


def arq_in_progress(job_id: str) -> str:
    """STRING ``worker:attempt``, the lease · engine · lease length, renewed · one per running job."""
    return f"{ARQ_IN_PROGRESS}{job_id}"


def arq_retry(job_id: str) -> str:
    """STRING tries counted by stock workers · stock arq · 88,400 s · one per retried job."""
    return f"{ARQ_RETRY}{job_id}"


# --- ours, one per deployment, on the queue Redis ---------------------------------------------

#: SET of queue names · our producers and workers · none · one per queue
QUEUES: Final = "arqscope:queues"
#: SET of queue names nobody declared or registered, found by a look around · collector · none · ≤ 100
FOREIGN: Final = "arqscope:foreign"
#: SET of names of queues that take no new job · actions · none · one per queue
PAUSED_QUEUES: Final = "arqscope:paused"
#: ZSET worker id → last heartbeat ms · every worker process · none · trimmed to 1 day at each beat
WORKERS: Final = "arqscope:workers"
#: HASH of the leader's newest sample: ``tick`` and the parts that change seldom, JSON · collector ·
#: 60 s · one, ≤ 1 MB
SAMPLE: Final = "arqscope:sample"
#: STRING: a server reads SAMPLE instead of sampling itself · collectors that follow · 10 s · one
SAMPLE_WANTED: Final = "arqscope:sample:wanted"
#: HASH ``queue/job id`` → JSON of a job for a queue of another queue server (``parcels``) · finish,
#: event processor · none · carried within a second; ≤ 10,000 + 100,000 while that server is away
PARCELS: Final = "arqscope:parcels"
#: STREAM of what operators did · audit · none · capped
AUDIT: Final = "arqscope:audit"
#: HASH key id → JSON of one API key (api_keys.ApiKey) · actions · none · ≤ 1,000
API_KEYS: Final = "arqscope:api-keys"
#: ZSET session id → epoch s it would have ended · servers · none · trimmed at each logout, ≤ 10,000
ENDED_SESSIONS: Final = "arqscope:ended-sessions"
#: STRING, 64 hex digits that sign sessions where there is no API_KEY · servers · none · one
SESSION_SECRET: Final = "arqscope:session-secret"  # noqa: S105, RUF100 - the key's name
#: ZSET operation id → created ms · operations · none · newest 1,000, and those that are open
OPERATIONS: Final = "arqscope:operations"
#: HASH of what an open operation does → its id · operations · none · ≤ 100 open operations
OPEN_OPERATIONS: Final = "arqscope:operations:open"
#: STRING ms of the last health check that could write, on every Redis · API · 60 s · one
CANARY: Final = "arqscope:canary"
CANARY_MS: Final = 60_000


def audited(effect: str) -> str:
    """STRING mark of an audit line an event brought about · audit · 7 d · such events of a week."""
    return f"arqscope:audited:{effect}"


def worker(worker_id: str) -> str:
    """HASH of one worker process (see records.WorkerInfo) · that process · 20 s · live workers."""
    return f"arqscope:worker:{worker_id}"


def lease(role: str) -> str:
    """STRING holder of a role only one process may act in · that process · lease · one per role."""
    return f"arqscope:lease:{role}"


def operation(operation_id: str) -> str:
    """HASH of one bulk action (operations.Operation) · operations · none · see OPERATIONS."""
    return f"arqscope:operation:{operation_id}"


# --- ours, one per queue, on the queue Redis --------------------------------------------------


def running(queue: str) -> str:
    """HASH id → ``started_ms:due_ms:attempt:worker#claim`` · claim, finish · none · running jobs."""
    return f"arqscope:{{{queue}}}:running"


def attempts(queue: str) -> str:
    """HASH id → ``runs:errors:shutdowns:crashes|json`` · claim, finish · none · unfinished jobs
    that failed, were shut down or crashed at least once."""
    return f"arqscope:{{{queue}}}:attempts"


def wake(queue: str) -> str:
    """LIST of wake-up tokens idle workers block on · enqueue · none · ≤ 16 tokens."""
    return f"arqscope:{{{queue}}}:wake"


def runs(queue: str) -> str:
    """STREAM, one entry per finished run: field ``r``, a JobRun as JSON · finish · capped ~10,000."""
    return f"arqscope:{{{queue}}}:runs"


def totals(queue: str) -> str:
    """HASH of counters that only grow (see records.TOTALS) · enqueue, finish, actions · none · fixed."""
    return f"arqscope:{{{queue}}}:totals"


def minute(queue: str, epoch_minute: int) -> str:
    """HASH ``function|o|complete``, ``function|w|12`` (wait), ``|r|`` (run), ``|e|`` (end to end) or
    ``|a|accepted`` → count · enqueue, finish · 2 h · functions x buckets."""
    return f"arqscope:{{{queue}}}:minute:{epoch_minute}"


def minute_prefix(queue: str) -> str:
    """What ``minute`` puts before the epoch minute: scripts add it by Redis' own clock."""
    return f"arqscope:{{{queue}}}:minute:"


def progress(queue: str, root: str) -> str:
    """HASH progress (and ``…:log``, a LIST of lines) of a job and the retries of its letter · the
    job · 7 d · one per job that reports."""
    return f"arqscope:{{{queue}}}:progress:{root}"


def job_memory(queue: str, root: str, enqueued_ms: int) -> str:
    """HASH checkpoint and ``once:<name>`` marks, shared by all runs of one enqueued job · the job ·
    30 d · one per job that uses it."""
    return f"arqscope:{{{queue}}}:memory:{root}:{enqueued_ms}"


#: ms a copy of a payload outlives it
VAULT_MS: Final = 30 * 86_400_000


def vault(queue: str, job_id: str) -> str:
    """STRING copy of a payload that expires · enqueue, janitor · 30 d beyond it, removed when the job
    ends · jobs with an expiry, jobs of stock producers."""
    return f"arqscope:{{{queue}}}:vault:{job_id}"


def concurrency(queue: str) -> str:
    """STRING slots per worker set at run time · actions · none · one per queue."""
    return f"arqscope:{{{queue}}}:concurrency"


def control(queue: str, database: int) -> str:
    """PUB/SUB channel of control messages (JSON) to the workers of a queue. Channels are common to all
    databases of a server, so the number is part of the name."""
    return f"arqscope:{{{queue}}}:control:{database}"


def functions(queue: str) -> str:
    """ZSET function name → last heartbeat ms of a worker that knows it · workers · none · functions."""
    return f"arqscope:{{{queue}}}:functions"


def ticks(queue: str) -> str:
    """HASH name of a cron job → how its last run ended, JSON (``schedules.Tick``) · workers · 90 d ·
    cron jobs of the queue."""
    return f"arqscope:{{{queue}}}:ticks"


# --- history of a queue or stream (*source*), all on the queue Redis ----------------------------


def history_open(source: str) -> str:
    """HASH ``m<epoch minute>`` or ``h<epoch hour>`` → one row (JSON) not packed yet · the collector
    that leads · 8 d · ≤ 130 minutes and 30 hours."""
    return f"arqscope:{{{source}}}:history:open"


def history_minutes(source: str, epoch_hour: int) -> str:
    """STRING the minutes of one hour, packed (see ``tiers``) · collector · 7 d · 168 per source."""
    return f"arqscope:{{{source}}}:history:m:{epoch_hour}"


def history_hours(source: str, epoch_day: int) -> str:
    """STRING the hours of one day, packed · collector · 90 d · 90 per source."""
    return f"arqscope:{{{source}}}:history:h:{epoch_day}"


def moment(kind: str, number: int) -> str:
    """STRING a whole sample, packed: every minute (``m``) for 2 h, every hour (``q``) for 7 d, every
    day (``s``) for 90 d · collector · as said · 378 per deployment."""
    return f"arqscope:moment:{kind}:{number}"


#: ZSET of deploys (JSON) → ms · collector, actions · none · 90 d, 5,000 at most
MARKS: Final = "arqscope:marks"
#: HASH source → version its workers run, as last seen · collector · none · one per source
VERSIONS: Final = "arqscope:versions"

# --- dead letters: *source* is a queue (queue Redis) or a stream (streams Redis) ---------------


def dead_open(source: str) -> str:
    """ZSET letter id → died ms, awaiting a decision · finish, actions · none · reviewed by people."""
    return f"arqscope:{{{source}}}:dead:open"


def dead_retrying(source: str) -> str:
    """ZSET letter id → redriven ms, a retry is under way · actions, finish · none · open retries."""
    return f"arqscope:{{{source}}}:dead:retrying"


def dead_closed(source: str) -> str:
    """ZSET letter id → closed ms (resolved, discarded, archived, aborted) · actions, finish · trimmed
    after retention."""
    return f"arqscope:{{{source}}}:dead:closed"


def dead_spilling(source: str) -> str:
    """ZSET letter id → died ms, on its way to an archive file · dead-letter processor · none · ≤ 250."""
    return f"arqscope:{{{source}}}:dead:spilling"


def dead_record(source: str, letter_id: str) -> str:
    """HASH of one dead letter (records.DeadLetter) · finish, actions · none while open · letters."""
    return f"arqscope:{{{source}}}:dead:record:{letter_id}"


def dead_payload(source: str, letter_id: str) -> str:
    """STRING raw payload bytes of a dead job · finish · none while open · one per letter."""
    return f"arqscope:{{{source}}}:dead:payload:{letter_id}"


# --- causes: groups of dead letters of all sources, on the queue Redis -------------------------

#: ZSET fingerprint → ms last seen · dead-letter processor · none · newest 2,000 (untouched go first)
CAUSES: Final = "arqscope:causes"
#: ZSET ``stream/letter@died`` → died ms, deaths of events counted · processor · none · newest 20,000
CAUSES_COUNTED: Final = "arqscope:causes:counted"


def cause(fingerprint: str) -> str:
    """HASH of one cause (causes.Cause) · processor, actions · none · one per member of CAUSES."""
    return f"arqscope:cause:{fingerprint}"


def cause_counts(fingerprint: str) -> str:
    """HASH ``h<hour>``, ``d<day>`` → deaths, ``r<hour>`` → retries · processor · none · 72 hours,
    30 days and 25 hours of each cause."""
    return f"arqscope:cause-counts:{fingerprint}"


def samples(queue: str, function: str) -> str:
    """LIST of arguments of jobs that ended well (JSON ≤ 2 KB) · workers · 7 d · 200 per function."""
    return f"arqscope:{{{queue}}}:samples:{function}"


#: ZSET ``worker|source|version`` → ms it started · dead-letter processor · none · newest 1,000
STARTS: Final = "arqscope:starts"


def sweep(source: str, operation_id: str) -> str:
    """HASH cursor, counts and canaries of an operation on dead letters, written by the script that
    acts · operations · 7 d after its last step · operations of a week."""
    return f"arqscope:{{{source}}}:dead:sweep:{operation_id}"


# --- streams Redis ----------------------------------------------------------------------------


def handled(stream: str, entry_id: str) -> str:
    """HASH handler → outcome, the dedup of effects · event processor · 7 d · recent entries."""
    return f"arqscope:{{{stream}}}:handled:{entry_id}"


def event_attempts(stream: str) -> str:
    """HASH entry id → failed deliveries · event processor · none · pending entries."""
    return f"arqscope:{{{stream}}}:attempts"


def event_totals(stream: str) -> str:
    """HASH of counters (processed, failed, dead, unmatched, malformed) · processor · none · fixed."""
    return f"arqscope:{{{stream}}}:totals"


def recent_events(stream: str) -> str:
    """STREAM of handled events with handlers and outcome, for the page · processor · capped ~1,000."""
    return f"arqscope:{{{stream}}}:recent"


def checkpoints(stream: str) -> str:
    """HASH group → id below which nothing is pending · event processor · none · groups."""
    return f"arqscope:{{{stream}}}:checkpoints"


def statuses(stream: str, kind: str) -> str:
    """ZSET subject → ms, what events last told about · event handlers · 7 d · 1,000 per kind."""
    return f"arqscope:{{{stream}}}:statuses:{kind}"


def status(stream: str, kind: str, subject: str) -> str:
    """HASH status, type, text, entry … of one subject · event handlers · 7 d · those of ``statuses``."""
    return f"arqscope:{{{stream}}}:status:{kind}:{subject}"


def replay_mark(stream: str, operation_id: str) -> str:
    """STRING id of the last entry a replay copied · replay_events · 30 d · one per replay."""
    return f"arqscope:{{{stream}}}:replayed:{operation_id}"


def published(stream: str, event_id: str) -> str:
    """STRING entry id of an event published under a caller's event id · publisher · 24 h · such
    events of a day."""
    return f"arqscope:{{{stream}}}:published:{event_id}"


def publish_call(stream: str, call: str) -> str:
    """STRING JSON reply of one publishing call, should the client repeat it · publisher · 10 s ·
    calls of 10 s."""
    return f"arqscope:{{{stream}}}:call:{call}"


# --- cache Redis ------------------------------------------------------------------------------

#: LISTs of JSON, newest first · dead-letter processor · 7 d for alerts · capped at 10,000
DLQ_ALERTS: Final = "dlq:alerts"
DLQ_ESCALATIONS: Final = "dlq:escalations"
DLQ_DISCARDED: Final = "dlq:discarded"
DLQ_ARCHIVE: Final = "dlq:archive"
#: ZSET alert id → ms last changed · dead-letter processor, actions · none · newest 1,000
ALERTS: Final = "arqscope:alerts"
#: ZSET delivery ``channel|alert|change`` → ms due · dead-letter processor · none · newest 500
ALERTS_OUTBOX: Final = "arqscope:alerts:outbox"
#: HASH delivery → tries made · dead-letter processor · none · members of ALERTS_OUTBOX
ALERTS_TRIES: Final = "arqscope:alerts:tries"
#: HASH ``rule|source`` → state of a metric rule (JSON) · dead-letter processor · 1 d · rules x sources
ALERT_RULES: Final = "arqscope:alerts:rules"


def alert(alert_id: str) -> str:
    """HASH of one alert (alerts.Alert) · processor, actions · 7 d after the last change · ALERTS."""
    return f"arqscope:alert:{alert_id}"


def alert_seen(notices: str, mark: str) -> str:
    """STRING count of notices held back in a window · dead-letter processor · the window · causes."""
    return f"{notices}:seen:{mark}"


def notified(stream: str, identity: str, effect: str) -> str:
    """STRING mark of a notification sent · event processor · 10 min · recent notifications."""
    return f"arqscope:{{{stream}}}:notified:{identity}:{effect}"


def idempotent(digest: str) -> str:
    """STRING JSON, the kept answer to a write · API · 24 h · one per request with Idempotency-Key."""
    return f"arqscope:idempotent:{digest}"


def user_channel(user_id: str) -> str:
    """PUB/SUB channel of one user's notifications (cache Redis)."""
    return f"user:{user_id}"


def workspace_channel(workspace_id: str) -> str:
    """PUB/SUB channel of one workspace's notifications (cache Redis)."""
    return f"workspace:{workspace_id}"


#: PUB/SUB channel everyone hears (cache Redis)
BROADCAST_CHANNEL: Final = "system:broadcast"

#: ZSET channel → ms of its last notification · notify · 1 h · 2,000 channels, least recent forgotten
REPLAY_CHANNELS: Final = "arqscope:replay"


def replay(channel: str) -> str:
    """STREAM, field ``m``, the last notifications of a channel · notify · 1 h after the last · 50
    entries, and the channels of REPLAY_CHANNELS."""
    return f"arqscope:replay:{channel}"
