"""What to do after a run failed. Pure: attempts and policy in, a decision out."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from app.errors import PermanentError


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how soon a failed job runs again.

    ``attempts`` runs may fail. The n-th failure waits a uniformly random time in
    [0, min(cap, base * 2^(n-1))] seconds: "full jitter", M. Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.
    """

    attempts: int = 1
    base_s: float = 2.0
    cap_s: float = 600.0
    crashes: int = 5  #: crashes after which a job is dead
    retry_errors: bool = True  #: False: stock arq's rule, a plain exception is final

    def delay_s(self, failures: int, uniform: Callable[[], float] = random.random) -> float:
        """Seconds to wait after the *failures*-th failure (1 for the first)."""
        # 2**60 s is beyond any cap; the bound keeps the power from overflowing
        return min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60)) * uniform()

    def with_options(self, attempts: int | None, backoff_s: float | None) -> "RetryPolicy":
        """Return this policy with a job's own options, where given."""
        changed = self
        if attempts is not None:
            changed = replace(changed, attempts=attempts, retry_errors=True)
        if backoff_s is not None:
            changed = replace(changed, base_s=backoff_s)
        return changed


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Run the job again after a while."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Make the job a dead letter."""

    reason: str


def after_failure(
    failures: int, error: BaseException, policy: RetryPolicy, *, defer_s: float | None = None
) -> TryAgain | GiveUp:
    """Decide after the *failures*-th failure; *defer_s* is what ``arq.Retry`` asked for."""
    if isinstance(error, PermanentError):
        return GiveUp("permanent")
    if failures >= policy.attempts:
        return GiveUp("timeout" if isinstance(error, TimeoutError) else "attempts")
    if defer_s is not None:
        return TryAgain(defer_s)
    if not policy.retry_errors:
        return GiveUp("timeout" if isinstance(error, TimeoutError) else "attempts")
    return TryAgain(policy.delay_s(failures))
