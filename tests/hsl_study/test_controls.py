"""The controls change one thing each; those that could be another arm by another name are told from it."""

from pathlib import Path
from typing import Any

import pytest

from hsl_cli.config_file import parse_file
from hsl_model.engine import EngineOptions
from hsl_model.protocol.config import RunConfig
from hsl_model.sampler import num_steps
from hsl_study import configs
from hsl_study.config import StudyConfig
from hsl_study.federation import run_federation
from tests.hsl_model.engine_helpers import run_config, site_data

CONTROLS = StudyConfig.model_validate(parse_file(configs.path_of("controls") or Path("controls")))
OPTIONS = EngineOptions(snapshot_every_steps=None)
ONE_CHANGE = {
    "hsl-unbalanced": ("hsl", {"training.balanced_sampler"}),
    "hsl-by-cases": (
        "hsl",
        {"method.name", "method.options.sat_weight", "method.options.use_sat", "network.architecture"},
    ),
    "hsl-loss-tenth": ("hsl", {"method.options.sat_weight"}),
    "hsl-batch-norm": ("hsl", {"network.normalisation"}),
    "hsl-fused-twice-as-often": ("hsl", {"training.fuse_every_steps", "num_rounds"}),
    "swarm-unbalanced": ("swarm", {"training.balanced_sampler"}),
    "fedavg": ("swarm", {"method.name"}),
}


def runs() -> dict[str, RunConfig]:
    return {arm.name: CONTROLS.run_config(arm, ("a", "b"), 0, "0" * 64) for arm in CONTROLS.arms}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    parts = [flat(inner, f"{path}.{key}" if path else key) for key, inner in value.items()]
    return {name: found for part in parts for name, found in part.items()}


@pytest.mark.parametrize("arm", ONE_CHANGE)
def test_a_control_differs_from_its_arm_in_what_its_name_says(arm: str) -> None:
    base, changed = ONE_CHANGE[arm]
    one, other = (flat(runs()[name].model_dump(mode="json")) for name in (arm, base))
    differs = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert differs - {"name"} == changed


def test_every_control_has_the_same_number_of_steps() -> None:
    totals = set()
    for run in runs().values():
        assert run.training.images_per_epoch is not None
        per_epoch = num_steps(run.training.images_per_epoch, run.training.batch_size)
        totals.add(run.num_rounds * run.training.steps_a_round(per_epoch))
    assert totals == {18}


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
