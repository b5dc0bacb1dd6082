"""The daemons over real SFTP and the federation in one process end with the same bits."""

from pathlib import Path

import pytest

from hsl_data.site import prepare_site
from hsl_model.protocol.config import RunConfig
from hsl_model.round_work import EngineOptions
from hsl_study.federation import run_federation
from tests.e2e.alliance import Alliance, digests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_daemons_and_simulation_end_with_the_same_digests(tmp_path: Path) -> None:
    with Alliance(tmp_path / "alliance") as alliance:
        alliance.start()
        run_id = alliance.create_run()
        alliance.start_run(run_id)
        deployed = alliance.wait_for_end(run_id)
        config: RunConfig = alliance.run(run_id).config
        sites = {
            node_id: prepare_site(
                alliance.binding(node_id),
                config.task,
                alliance.root / "data" / "sat.safetensors",
                config.sat_digest,
                tmp_path / "cache",
            ).data
            for node_id in alliance.node_ids
        }
    simulated = run_federation(config, sites, tmp_path / "simulated", EngineOptions())
    assert digests(deployed) == [one.fused_digest for one in simulated]
    assert len(set(digests(deployed))) == 3, "a round that changes nothing proves nothing"
    for left, right in zip(deployed, simulated, strict=True):
        assert {p.node_id: p.validation for p in left.participations} == {
            node_id: node.validation for node_id, node in right.nodes.items()
        }
