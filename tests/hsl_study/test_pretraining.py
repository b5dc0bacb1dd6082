from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hsl_model.checkpoint import read_tensors, sha256_file, tensors_digest
from hsl_model.data import ImageSet
from hsl_model.engine import EngineOptions, initial_tensors
from hsl_study import federation, views
from hsl_study.federation import run_federation
from hsl_study.pretraining import LearnsFrom, initial_file, monitored, pretraining, started_from_sat
from tests.hsl_model.engine_helpers import image_set, run_config, site_data

OPTIONS = EngineOptions(snapshot_every_steps=None)
SAT = image_set(40, 99)
SITES = {"clinic-a": site_data(1, num_training=9), "clinic-b": site_data(2, num_training=6)}
LITTLE = {"local_epochs": 1}


def started(
    folder: Path,
    method: str = "swarm",
    learns_from: LearnsFrom = "labels",
    sat: ImageSet = SAT,
    **changes: Any,
) -> tuple[Any, dict[str, np.ndarray]]:
    changes = {"training": LITTLE, "num_rounds": 1, "convergence": {"enabled": False}} | changes
    begun = started_from_sat(run_config(method, **changes), sat, 2, folder, OPTIONS, learns_from)
    return begun, read_tensors(initial_file(folder))


RELATIVE = {"architecture": "relative", "normalisation": "group"}


@pytest.mark.parametrize("learns_from", ["labels", "views"])
@pytest.mark.parametrize(
    ("method", "network"),
    [("swarm", {}), ("swarm", {"architecture": "twin"}), ("swarm", RELATIVE), ("hsl", {})],
)
def test_only_the_parameters_of_the_primary_encoder_come_from_the_sat(
    method: str, network: dict[str, Any], learns_from: LearnsFrom, tmp_path: Path
) -> None:
    """Under batch norm: neither the tower nor running statistics."""
    config, start = started(tmp_path, method, learns_from, network=network)
    fresh = initial_tensors(run_config(method, network=network))
    assert start.keys() == fresh.keys()
    changed = {name for name in fresh if not np.array_equal(start[name], fresh[name])}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {name for name in fresh if name.startswith("primary_encoder.") and not name.endswith(statistics)}
    assert config.initial.seed is None
    assert config.initial.file_sha256 == sha256_file(initial_file(tmp_path))


def test_the_run_starts_from_that_file(tmp_path: Path) -> None:
    config, start = started(tmp_path)
    rounds = run_federation(config, SITES, tmp_path, OPTIONS, initial_file(tmp_path))
    assert rounds[0].fused_digest == tensors_digest(start.items())
    assert len(rounds) == 2


def test_the_encoder_has_learnt_the_anchor_task(tmp_path: Path) -> None:
    """Else "started from SAT training" would be another random start."""
    config = run_config("swarm", training={"local_epochs": 4, "images_per_epoch": 64}, convergence={"enabled": False})
    before = pretraining(config, 2)
    rounds = run_federation(before, {"public": monitored(SAT, before)}, tmp_path, OPTIONS)
    losses = [done.nodes["public"].metrics for done in rounds[1:]]
    assert [metrics.num_steps for metrics in losses if metrics is not None] == [64, 64]
    assert losses[-1] is not None
    assert losses[-1].training_loss is not None
    assert losses[-1].training_loss < 0.5


@pytest.mark.parametrize(
    ("learns_from", "module", "name"), [("labels", federation, "train_round"), ("views", views, "train_at")]
)
def test_broken_off_it_goes_on_to_the_same_start(
    learns_from: LearnsFrom, module: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = started(tmp_path / "whole", learns_from=learns_from)
    train, calls = getattr(module, name), iter(range(100))

    def break_off(*given: Any, **how: Any) -> Any:
        if next(calls) == 1:  # its second round
            raise KeyboardInterrupt
        return train(*given, **how)

    monkeypatch.setattr(module, name, break_off)
    with pytest.raises(KeyboardInterrupt):
        started(tmp_path / "broken", learns_from=learns_from)
    assert not initial_file(tmp_path / "broken").exists()
    again, _ = started(tmp_path / "broken", learns_from=learns_from)
    assert again == whole
    assert next(calls) == 3, "the finished round was not trained again"


def test_it_sees_the_sat_alone_and_a_tenth_of_either_class_only_monitors() -> None:
    config = pretraining(run_config("swarm", training={"added_images": "own"}), 4)
    assert (config.nodes, config.num_rounds, config.training.added_images) == (("public",), 4, "none")
    site = monitored(image_set(100, 4, positive_share=0.2), config)
    assert (len(site.training), len(site.validation)) == (90, 10)
    assert site.validation.labels.sum() == 2
    assert site.sat is None
    by_curve = pretraining(run_config("swarm", training={"intensity": "anchors"}), 4)
    assert monitored(SAT, by_curve).sat is SAT, "its grey levels are wanted, not its labels"
    held = {image.tobytes() for image in site.validation.images}
    assert not held & {image.tobytes() for image in site.training.images}
    again, other = (monitored(SAT, run_config("swarm", seed=seed)).validation.images for seed in (7, 8))
    assert np.array_equal(monitored(SAT, config).validation.images, again)
    assert not np.array_equal(monitored(SAT, config).validation.images, other)
