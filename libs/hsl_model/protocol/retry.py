"""Retry as a pure value: `policy.delay_s(attempt, u)` says how long, or None to give up. Nobody sleeps here.

What is transient is decided by `TRANSIENT`, a table over the *kind* of a failure. The services translate the exceptions
of their libraries into kinds (the tables live beside the translation and are tested there).
"""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    CONNECTION = "connection"  # refused, reset, closed, no route, name not resolved
    TIMEOUT = "timeout"  # no progress for the stall time
    SERVER_ERROR = "server_error"  # HTTP 5xx, 429
    LIMIT = "limit"  # a connection, session or open-file limit that looks like a refusal
    NOT_YET_THERE = "not_yet_there"  # a file that another node has still to publish
    MISMATCH = "mismatch"  # bytes arrived that are not the announced ones: transfer again
    SPACE = "space"  # no room or over quota: waits for a person, but a later try may pass
    DENIED = "denied"  # authentication or permission, for certain
    HOST_KEY = "host_key"  # the server is not the pinned one
    REJECTED = "rejected"  # HTTP 4xx: the same request gets the same answer
    VERSION = "version"  # HTTP 426: upgrade, the journal stays intact
    BUG = "bug"  # anything we did not foresee


TRANSIENT: dict[FailureKind, bool] = {
    FailureKind.CONNECTION: True,
    FailureKind.TIMEOUT: True,
    FailureKind.SERVER_ERROR: True,
    FailureKind.LIMIT: True,
    FailureKind.NOT_YET_THERE: True,
    FailureKind.MISMATCH: True,
    FailureKind.SPACE: True,
    FailureKind.VERSION: True,
    FailureKind.DENIED: False,
    FailureKind.HOST_KEY: False,
    FailureKind.REJECTED: False,
    FailureKind.BUG: False,
}


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter: delay = u * min(cap_s, base_s * 2**attempt), u drawn from [0.5, 1)."""

    base_s: float = 0.5
    cap_s: float = 30.0
    max_attempts: int | None = None  # None: transient failures are retried for ever, each one visible to the admin

    def delay_s(self, attempt: int, kind: FailureKind, u: float) -> float | None:
        """Seconds to wait after the failed `attempt` (0-based), or None when it is not worth another try.

        `u` in [0, 1) is the caller's random draw, so that the rule itself stays pure.
        """
        if not TRANSIENT[kind]:
            return None
        if self.max_attempts is not None and attempt + 1 >= self.max_attempts:
            return None
        return (0.5 + u / 2) * min(self.cap_s, self.base_s * 2.0 ** min(attempt, 30))
