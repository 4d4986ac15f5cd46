"""What a worker may be told that arq's settings have no word for."""

from dataclasses import dataclass, field

from app.payloads.codec import Codec
from app.placement import AT_HOME, Placement
from workers.retry_policy import RetryPolicy
from workers.runs.job_events import JobEvents


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What arq's settings have no word for; passed as ``ctx={"arqscope": EngineOptions(...)}``."""

    url: str = ""  #: Redis URL; empty: arq's redis_settings or redis_pool
    setting: str = "redis_settings"  #: what says where that Redis is …
    login_setting: str = "redis_settings"  #: … and its password
    policy: RetryPolicy = field(default_factory=lambda: RetryPolicy(retry_errors=False))
    codec: Codec | None = None  #: None: arq's own serializers (pickle)
    lease_s: float = 30.0
    drain_s: float | None = None  #: None: arq's job_completion_wait
    job_events: JobEvents | None = None  #: tells the stream how jobs stand
    generic_jobs: bool = False  #: run functions nobody registered as ``generic``
    unknown_grace_s: float = (
        300.0  #: a function nobody here knows waits this long for a newer worker
    )
    release: str = ""  #: version of the user's code that heartbeats tell; empty: this project's
    placement: Placement = AT_HOME  #: which server holds which queue: next jobs stay on theirs
    beat_file: str = ""  #: touched after each heartbeat; empty: none
