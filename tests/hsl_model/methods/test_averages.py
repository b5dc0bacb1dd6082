"""fedavg, swarm, hsl, fedbn, fedprox and personalised: what a node holds after fusion, with numbers done by hand."""

from pathlib import Path

import pytest

from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.messages import FusionPlan, PlanEntry
from tests.hsl_model.engine_helpers import run_config, spec_of
from tests.hsl_model.methods.fusion_helpers import fused_number

NUMBERS = {"a": 1.0, "b": 2.0, "c": 6.0}
CASES = {"a": 100, "b": 300, "c": 600}


@pytest.mark.parametrize("method", ["fedavg", "fedprox"])
def test_weights_by_cases(method: str, tmp_path: Path) -> None:
    found, _ = fused_number(method, "a", NUMBERS, tmp_path, num_cases=CASES)
    assert found == pytest.approx(0.1 * 1 + 0.3 * 2 + 0.6 * 6)  # 4.3


@pytest.mark.parametrize("method", ["swarm", "hsl", "fedbn"])
def test_equal_weights_ignore_the_cases(method: str, tmp_path: Path) -> None:
    found, _ = fused_number(method, "a", NUMBERS, tmp_path, num_cases=CASES)
    assert found == 3.0  # (1 + 2 + 6) / 3


def test_every_node_of_a_common_method_holds_the_same(tmp_path: Path) -> None:
    digests = {fused_number("fedavg", node, NUMBERS, tmp_path, num_cases=CASES)[1] for node in NUMBERS}
    assert len(digests) == 1


def test_fuse_needs_every_update_of_the_plan(tmp_path: Path) -> None:
    entry = PlanEntry(
        node_id="a", update_sha256="0" * 64, update_bytes=1, manifest_sha256="0" * 64, weight=1.0, num_cases=1
    )
    plan = FusionPlan(run_id="run-tiny", round_number=1, version=1, entries=(entry,))
    from hsl_model.engine import fuse_own

    with pytest.raises(ConfigError, match="not here: a"):
        fuse_own(spec_of(run_config("swarm")), plan, {}, tmp_path / "fused.safetensors")


# --- personalised ---


def test_personalised_keeps_half_of_its_own(tmp_path: Path) -> None:
    held = {node: fused_number("personalised", node, NUMBERS, tmp_path, num_cases=CASES)[0] for node in NUMBERS}
    assert held == {"a": 0.5 * 1 + 0.5 * 4, "b": 0.5 * 2 + 0.5 * 3.5, "c": 0.5 * 6 + 0.5 * 1.5}


def test_personalised_own_share(tmp_path: Path) -> None:
    assert fused_number("personalised", "c", NUMBERS, tmp_path, own_share=1.0)[0] == 6.0
    assert fused_number("personalised", "c", NUMBERS, tmp_path, own_share=0.0)[0] == 1.5
    assert fused_number("personalised", "c", NUMBERS, tmp_path, own_share=0.75)[0] == 0.75 * 6 + 0.25 * 1.5


def test_personalised_with_two_nodes_is_swarm(tmp_path: Path) -> None:
    two = {"a": 1.1, "b": 2.7}
    swarm = fused_number("swarm", "a", two, tmp_path)
    assert fused_number("personalised", "a", two, tmp_path) == swarm
    assert fused_number("personalised", "b", two, tmp_path) == swarm


def test_personalised_alone_or_left_out_of_the_plan(tmp_path: Path) -> None:
    assert fused_number("personalised", "a", {"a": 1.5}, tmp_path)[0] == 1.5
    # its update came too late for the plan, but it has it: it still mixes in its own
    assert fused_number("personalised", "a", NUMBERS, tmp_path, in_plan={"b", "c"})[0] == 0.5 * 1 + 0.5 * 4
    # it has none: the mean of the others
    others = {"b": 2.0, "c": 6.0}
    assert fused_number("personalised", "a", others, tmp_path)[0] == 4.0
