"""kill -9 of agent or training child at any phase, started again, or a bad line: the digests of an undisturbed run.

With real training children; coordinator and hub, and every durable step of an agent, are killed in `tests/crash`.

In one file, so that one worker makes the undisturbed run once.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from hsl_model.protocol.states import NodePhase
from tests.e2e.alliance import Alliance, digests
from tests.e2e.bad_line import CHAINS, RING, BadLine
from tests.e2e.kill_points import KillPoints, died_at
from tests.e2e.warm import command

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
VICTIM = "site-2"
SENT_UNTIL_ANSWERED = ("/node/accept", "/node/announce", "/node/fusion")
SENT_FOR_EVER = ("/node/desired", "/node/heartbeat")
NewAlliance = Callable[..., Alliance]


def run_disturbed(alliance: Alliance) -> list[str | None]:
    alliance.start()
    run_id = alliance.create_run()
    alliance.start_run(run_id)
    return digests(alliance.wait_for_end(run_id))


def test_an_agent_killed_in_every_phase(
    new_alliance: NewAlliance, undisturbed: list[str | None], tmp_path: Path
) -> None:
    """Twice in each: when it begins, and when its work is done and its row not yet written."""
    phases = [phase for phase in NodePhase if phase not in (NodePhase.IDLE, NodePhase.FAILED)]
    points = [f"before:{phase}" for phase in phases]
    points += [f"after:{phase}" for phase in phases if phase is not NodePhase.WAITING]  # a decision ends it
    markers = tmp_path / "markers"
    alliance = new_alliance(
        agent_module="tests.e2e.killed_agent",
        agent_environment={
            node_id: KillPoints.environment(points if node_id == VICTIM else [], markers)
            for node_id in ("site-1", "site-2", "site-3")
        },
    )
    assert run_disturbed(alliance) == undisturbed
    assert died_at(markers) == {point.replace(":", "_") for point in points}
    assert alliance.services[VICTIM].num_kills == len(points)


def test_the_training_child_killed_while_it_trains_and_validates(
    new_alliance: NewAlliance, undisturbed: list[str | None], tmp_path: Path, warm: Path
) -> None:
    points = ["step:1", "step:3", "step:4", "after:train", "before:validate"]
    markers = tmp_path / "markers"
    killed = {"HSL_NODE_TRAINER_COMMAND": command(warm, "tests.e2e.killed_child")}
    alliance = new_alliance(agent_environment={VICTIM: {**KillPoints.environment(points, markers), **killed}})
    assert run_disturbed(alliance) == undisturbed
    assert died_at(markers) == {point.replace(":", "_") for point in points}
    assert alliance.services[VICTIM].num_kills == 0, "the daemon survives its child"


def test_a_line_that_loses_repeats_and_delays_messages_and_replies(
    new_alliance: NewAlliance, undisturbed: list[str | None]
) -> None:
    alliance = new_alliance()
    with BadLine(alliance.url) as line:
        alliance.url_of_agents = line.url
        assert run_disturbed(alliance) == undisturbed
        alliance.end()
    chained = {fault for chain in CHAINS for fault in chain}
    expected = {(kind, fault) for kind in SENT_UNTIL_ANSWERED for fault in chained}
    expected |= {("/enrol", fault) for fault in CHAINS[0]}
    expected |= {(kind, fault) for kind in SENT_FOR_EVER for fault in RING}
    assert expected <= set(line.met), sorted(expected - set(line.met))
