"""A node agent, killed when a phase begins or when it is done and its row not yet written: `before:uploading`, …

Only in rounds of training (1 and later), each point once.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import node_agent.main
from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.facts import RoundFacts
from node_agent.phases import PHASES, PhaseFunction
from node_agent.settings import NodeSettings
from tests.e2e.kill_points import KillPoints


def killing(phases: Mapping[NodePhase, PhaseFunction], points: KillPoints) -> dict[NodePhase, PhaseFunction]:
    return {phase: _killing(phase, function, points) for phase, function in phases.items()}


def _killing(phase: NodePhase, function: PhaseFunction, points: KillPoints) -> PhaseFunction:
    def run(context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts | None]:
        if facts.round_number > 0:
            points.reached(f"before:{phase}")
        result = function(context, facts)
        if facts.round_number > 0:
            points.reached(f"after:{phase}")
        return result

    return run


if __name__ == "__main__":
    node_agent.main.configure_logging("info")
    settings = NodeSettings(workdir=Path(os.environ["HSL_NODE_WORKDIR"]))
    node_agent.main.run_daemon(settings, phases=killing(PHASES, KillPoints()))
