"""Every error this project raises on purpose.

* ArqscopeError
  - SettingsError            a setting is missing, malformed or unknown
  - RedisUnavailable         Redis did not answer in time
  - RedisRefused             Redis answered, but refuses to write (memory, read-only, disk, rights)
  - UnsafeRedis              Redis is set up so that accepted work would be lost
  - RedisServerMissing       no usable redis-server binary for the embedded stack
  - PortInUse                an address the embedded stack or the server needs is taken
  - BadRecord                bytes in Redis do not decode to the record we expect
    + BadPayload             a job's payload cannot be decoded, or is refused
  - InvalidRequest           what a caller asked for breaks a rule; names the field and the remedy
    + PayloadTooLarge        arguments or an event exceed the size limit
    + UnknownFunction        no worker function of that name
  - NotFound                 the queue, job, dead letter or stream named does not exist
  - Overloaded               a limit of this process is reached; later, or elsewhere, it may work
  - ActionRefused            a control action does not apply (wrong state, read-only, no right)
    + UnderWay               the same request is being carried out; ask again in a moment
  - CheckFailed              a deployment does not do what it must; carries the remedy
    + CheckImpossible        something cannot be checked from here; carries what would make it possible
* PermanentError             raised by a job: do not retry, bury at once
"""

from collections.abc import Sequence


class ArqscopeError(Exception):
    """The root: everything this project raises on purpose."""


class SettingsError(ArqscopeError):
    """A setting is missing, malformed or unknown."""


class RedisUnavailable(ArqscopeError):
    """Redis did not answer in time."""


class RedisRefused(ArqscopeError):
    """Redis answered but refuses writes: out of memory, read-only, disk error or missing rights."""


class UnsafeRedis(ArqscopeError):
    """Redis is set up so that accepted work would be lost; nobody should start on it."""


class RedisServerMissing(ArqscopeError):
    """No usable redis-server binary was found for the embedded stack."""


class PortInUse(ArqscopeError):
    """An address that must be listened on is taken."""


class BadRecord(ArqscopeError):
    """Bytes in Redis do not decode to the record we expect."""


class BadPayload(BadRecord):
    """A job's payload cannot be decoded, has the wrong shape, or is refused by policy."""


class InvalidRequest(ArqscopeError):
    """A caller's input breaks a rule; carries the field and the remedy."""

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.hint = hint


class PayloadTooLarge(InvalidRequest):
    """Arguments or an event exceed the size limit."""


class UnknownFunction(InvalidRequest):
    """No worker function of that name; carries the known names."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"no function named {name!r}",
            field="name",
            hint=f"known functions: {', '.join(sorted(known))}",
        )
        self.known = tuple(sorted(known))


class NotFound(ArqscopeError):
    """The queue, job, dead letter or stream named does not exist; carries the known names."""

    def __init__(self, kind: str, name: str, known: Sequence[str] = ()) -> None:
        super().__init__(f"no {kind} named {name!r}")
        self.kind = kind
        self.name = name
        self.known = tuple(known)


class Overloaded(ArqscopeError):
    """A limit of this process is reached; the same may work later, or on another process."""


class ActionRefused(ArqscopeError):
    """A control action does not apply: wrong state, read-only mode or missing right."""


class UnderWay(ActionRefused):
    """The same request is being carried out; its answer can be had in a moment."""


class CheckFailed(ArqscopeError):
    """A deployment does not do what it must; carries the remedy."""

    def __init__(self, sentence: str, remedy: str) -> None:
        super().__init__(sentence)
        self.remedy = remedy


class CheckImpossible(CheckFailed):
    """Something cannot be checked from here; carries what would make it possible."""


class PermanentError(Exception):
    """Raise in a job to say that trying again cannot help: it becomes a dead letter at once."""
