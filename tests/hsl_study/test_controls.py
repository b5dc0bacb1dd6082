"""Controls that are another arm by another name in one case, and not in the next."""

from pathlib import Path
from typing import Any

import numpy as np

from hsl_model.checkpoint import read_tensors
from hsl_model.engine import EngineOptions, initial_tensors
from hsl_study.federation import held_files, run_federation
from tests.hsl_model.engine_helpers import run_config, site_data

OPTIONS = EngineOptions(snapshot_every_steps=None)


def test_fedavg_on_the_mmoe_network_is_hsl_by_cases(tmp_path: Path) -> None:
    """Equal updates; another model where the nodes have unequal cases, the same bits where they have equal ones."""
    tiny: dict[str, Any] = {"num_rounds": 1, "training": {"local_epochs": 1}}
    hsl, by_cases = run_config("hsl", **tiny), run_config("fedavg", network={"architecture": "mmoe"}, **tiny)
    for name, num_cases in (("unequal", 6), ("equal", 9)):
        sites = {"clinic-a": site_data(1, num_training=9), "clinic-b": site_data(2, num_training=num_cases)}
        one, other = (
            run_federation(config, sites, tmp_path / name / config.method.name, OPTIONS)[-1]
            for config in (hsl, by_cases)
        )
        updates = [{node: part.update_sha256 for node, part in done.nodes.items()} for done in (one, other)]
        assert updates[0] == updates[1]
        assert (one.fused_digest == other.fused_digest) == (name == "equal")


def test_fedprox_at_nothing_is_swarm_where_cases_are_equal_and_at_a_tenth_is_not(tmp_path: Path) -> None:
    sites = {"clinic-a": site_data(1), "clinic-b": site_data(2)}
    digests = {}
    for name, options in (("swarm", {}), ("fedprox", {"mu": 0.0}), ("fedprox", {"mu": 0.1})):
        config = run_config(name, options=options, num_rounds=1, training={"local_epochs": 1})
        folder = tmp_path / f"{name}-{options.get('mu')}"
        digests[folder.name] = run_federation(config, sites, folder, OPTIONS)[-1].fused_digest
    assert digests["fedprox-0.0"] == digests["swarm-None"]
    assert digests["fedprox-0.1"] != digests["swarm-None"]


def test_fusing_more_often_trains_on_the_same_batches_and_ends_elsewhere(tmp_path: Path) -> None:
    sites = {"clinic-a": site_data(1), "clinic-b": site_data(2)}
    once, often = (
        run_config("swarm", num_rounds=num_rounds, training={"local_epochs": 1, "fuse_every_steps": steps})
        for num_rounds, steps in ((1, None), (3, 1))
    )
    rounds = [run_federation(config, sites, tmp_path / str(config.num_rounds), OPTIONS) for config in (once, often)]
    assert [len(done) for done in rounds] == [2, 4]
    assert rounds[0][0].fused_digest == rounds[1][0].fused_digest
    assert rounds[0][-1].fused_digest != rounds[1][-1].fused_digest


def test_a_fixed_head_is_still_the_initial_one_after_every_fusion(tmp_path: Path) -> None:
    """At every site, with unequal weights, in every round: all encoders have learnt towards one head."""
    sites = {"clinic-a": site_data(1), "clinic-b": site_data(2, num_training=6), "clinic-c": site_data(3)}
    little = {"local_epochs": 1, "fixed_head": True}
    config = run_config("fedavg", nodes=tuple(sites), training=little, num_rounds=3, convergence={"enabled": False})
    run_federation(config, sites, tmp_path, OPTIONS)
    start = initial_tensors(config)
    for site in sites:
        held = read_tensors(held_files(tmp_path, site, 3)[-1])
        assert {name for name in start if np.array_equal(held[name], start[name])} == {"head.weight", "head.bias"}
