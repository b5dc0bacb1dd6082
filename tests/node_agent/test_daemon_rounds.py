"""Whole rounds of one agent, from enrolment to the end of the run."""

from pathlib import Path

import pytest

from hsl_model.protocol.states import NodePhase
from tests.node_agent.alliance import Alliance, make_config
from tests.node_agent.helpers import Hospital


@pytest.mark.parametrize("method", ["swarm", "personalised", "local", "fedbn"])
def test_a_run_goes_from_its_initial_weights_to_its_end(tmp_path: Path, method: str) -> None:
    alliance = Alliance(tmp_path, make_config(method))
    hospital = Hospital(tmp_path / "a", alliance).join()

    with hospital.running():
        alliance.wait(lambda: alliance.finished)
        hospital.wait(lambda: hospital.row().facts is None)

    assert hospital.failure is None
    reports = [body for body in alliance.asked("/fusion") if body["validation"] is not None]
    assert [report["fused_digest"] for report in reports] == [alliance.history[number] for number in range(3)]
    assert hospital.row().phase is NodePhase.IDLE
    costs = reports[-1]["costs"]
    assert {"training", "checkpointing", "announcing", "fusing", "adopting"} <= set(costs["phase_seconds"])
    moved = costs["bytes_up"], costs["bytes_down"]
    assert moved == (0, 0) if method == "local" else min(moved) > 300  # a manifest and a file, each way
