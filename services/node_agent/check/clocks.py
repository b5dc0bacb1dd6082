"""Do this machine and the coordinator have the same time?

Rounds do not depend on it (deadlines come as durations); certificates, the egress ledger and the logs do.
"""

from datetime import timedelta

from node_agent.check.coordinator import Answer
from node_agent.check.finding import Concern, Finding, Outcome, Part

TOLERANCE_S = 60.0  # more is no drift: time is not set from a server here
LIMIT_S = 300.0  # beyond this, certificates that were just renewed are refused, and records cannot be laid side by side


def check_clock(answer: Answer) -> Finding:
    if answer.server_time is None or answer.local_time is None:
        return _found(Outcome.SKIPPED, "The coordinator's answer carries no time.")
    # The Date header has whole seconds, and was written somewhere within the round trip.
    unsure_s = 1.0 + answer.round_trip_s / 2
    behind_s = (answer.server_time - answer.local_time).total_seconds()
    off_s = max(0.0, abs(behind_s) - unsure_s)
    if off_s <= TOLERANCE_S:
        return _found(Outcome.OK, f"Within {TOLERANCE_S:.0f} s of the coordinator's.", behind_s)
    direction = "behind" if behind_s > 0 else "ahead of"
    sentence = (
        f"This machine's clock is {timedelta(seconds=round(abs(behind_s)))} {direction} the coordinator's "
        f"({TOLERANCE_S:.0f} s are tolerated): set it by NTP; if that is set up, outgoing UDP port 123 may be blocked."
    )
    return _found(Outcome.WARNING if off_s <= LIMIT_S else Outcome.FAILED, sentence, behind_s)


def _found(outcome: Outcome, sentence: str, behind_s: float | None = None) -> Finding:
    measured = {} if behind_s is None else {"behind_s": behind_s}
    return Finding(part=Part.COORDINATOR, concern=Concern.CLOCK, outcome=outcome, sentence=sentence, measured=measured)
