"""A demo that nobody watches ends when it has become hopeless, and not before."""

import pytest

from hsl_cli.demo.watchdog import PATIENCE_S, Watchdog
from hsl_cli.errors import RefusedError
from hsl_cli.live import Picture
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.states import NodePhase, RunStatus
from tests.hsl_cli.helpers import a_node, a_run


def picture(phase: NodePhase = NodePhase.TRAINING, status: RunStatus = RunStatus.RUNNING, **run: object) -> Picture:
    failure = "no_space: No space is left." if phase is NodePhase.FAILED else None
    return Picture(a_run(status, **run), (), {"site-1": a_node("site-1", phase, failure=failure)})


def test_a_site_that_stays_failed_ends_the_demo() -> None:
    clock = ManualClock()
    watchdog = Watchdog(clock, lambda _: None)
    watchdog(picture(NodePhase.FAILED))
    clock.advance(PATIENCE_S + 1)
    with pytest.raises(RefusedError, match=r"site-1 failed in round 1: no_space: No space is left\. Put that right"):
        watchdog(picture(NodePhase.FAILED))


def test_a_site_that_recovers_is_forgiven() -> None:
    clock = ManualClock()
    shown: list[Picture] = []
    watchdog = Watchdog(clock, shown.append)
    for phase in (NodePhase.FAILED, NodePhase.DOWNLOADING, NodePhase.FAILED):
        watchdog(picture(phase))
        clock.advance(PATIENCE_S - 1)
    assert len(shown) == 3


def test_different_digests_end_the_demo_at_once_and_an_admins_pause_does_not() -> None:
    watchdog = Watchdog(ManualClock(), lambda _: None)
    watchdog(picture(status=RunStatus.PAUSED, reason="paused by an admin"))
    with pytest.raises(RefusedError, match="the nodes fused different models"):
        watchdog(picture(status=RunStatus.PAUSED, reason="digest_disagreement"))
