"""Central: one node with everything, as many steps as asked for, and no test or validation image in training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hsl_model.batches import PairLoader
from hsl_model.data import SiteData
from hsl_model.engine import EngineOptions
from hsl_model.protocol.config import RunConfig
from hsl_study.arm_kinds import PooledConfig
from hsl_study.federation import run_federation
from hsl_study.pooled import POOLED, pooled_data, pooled_run
from tests.hsl_model.engine_helpers import run_config, site_data, spec_of

SITES = {"clinic-b": site_data(2, num_training=6, positive_share=1 / 6), "clinic-a": site_data(1, num_training=9)}
OPTIONS = EngineOptions(snapshot_every_steps=None)


def tiny(images_per_epoch: int | None = 10) -> RunConfig:
    training = {"local_epochs": 1, "images_per_epoch": images_per_epoch}
    return run_config("swarm", training=training, num_rounds=2, quorum={"min_nodes": 1})


def rows_of(data: SiteData, split: str) -> list[bytes]:
    return [image.tobytes() for image in getattr(data, split).images]


def test_each_split_is_the_sites_own_of_that_split_and_no_other() -> None:
    found = pooled_data(SITES, PooledConfig(sampler="site-class"))
    for split in ("training", "validation", "test"):
        sites = [rows_of(SITES[node], split) for node in ("clinic-a", "clinic-b")]
        assert rows_of(found, split) == sites[0] + sites[1]
    assert found.training.sites is not None
    assert found.training.sites.tolist() == [0] * 9 + [1] * 6
    assert found.validation.sites is None, "nothing is balanced there"
    assert not set(rows_of(found, "training")) & {*rows_of(found, "validation"), *rows_of(found, "test")}
    assert pooled_data(SITES, PooledConfig()).training.sites is None


@pytest.mark.parametrize(
    ("images_per_epoch", "steps", "expected"),
    [
        (10, "one-site", 3),  # ceil(10 / 4)
        (10, "all-sites", 6),
        (None, "one-site", 2),  # 9 cases are the most; a last batch of one is dropped
        (None, "all-sites", 4),  # 9 and the SAT's 8
    ],
)
def test_steps_are_one_site_s_or_all_sites(images_per_epoch: int | None, steps: str, expected: int) -> None:
    config = PooledConfig.model_validate({"steps": steps})
    run = pooled_run(tiny(images_per_epoch), SITES, config)
    loader = PairLoader(spec_of(run, node_id=POOLED), pooled_data(SITES, config), "cpu")
    assert loader.steps_per_epoch == expected
    assert run.nodes == (POOLED,)


def test_a_federation_of_one_node_is_central_bit_for_bit_and_of_two_is_not(tmp_path: Path) -> None:
    alone = {POOLED: SITES["clinic-a"]}
    run = tiny().model_copy(update={"nodes": (POOLED,)})
    federation = run_federation(run, alone, tmp_path / "federation", OPTIONS)
    for steps in ("one-site", "all-sites"):
        config = PooledConfig.model_validate({"steps": steps})
        data = {POOLED: pooled_data(alone, config)}
        assert run_federation(pooled_run(run, alone, config), data, tmp_path / steps, OPTIONS) == federation
    both = {POOLED: pooled_data(SITES, PooledConfig())}
    two = run_federation(pooled_run(run, SITES, PooledConfig()), both, tmp_path / "two", OPTIONS)
    assert two[-1].fused_digest != federation[-1].fused_digest
    assert two[0].fused_digest == federation[0].fused_digest, "equal initial weights"


def test_the_site_class_sampler_shows_every_cell_equally_often() -> None:
    data = pooled_data(SITES, PooledConfig(sampler="site-class"))
    numbered = replace(data.training, images=data.training.images.copy())
    numbered.images[:] = np.arange(15, dtype=np.uint8)[:, None, None, None]
    data = replace(data, training=numbered)
    training = {"images_per_epoch": 3000, "batch_size": 3000, "augment": False}
    batch = PairLoader(spec_of(run_config("swarm", training=training), node_id=POOLED), data, "cpu").batch(0, 0)
    _, shown = np.unique(batch.images[:, 0, 0, 0].numpy(), return_inverse=True)
    assert data.training.sites is not None
    cells = 2 * data.training.sites[shown] + data.training.labels[shown]
    counts = np.bincount(cells, minlength=4)
    assert (np.abs(counts / 3000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 3000)).all()
