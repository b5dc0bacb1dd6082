"""`fuse_every_steps`: how often a run fuses, and nothing else."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hsl_model.batches import PairLoader
from hsl_model.protocol.config import RunConfig, TrainingConfig
from tests.hsl_model.engine_helpers import initial_file, run_config, site_data, spec_of, train


def every(steps: int | None, method: str = "hsl") -> RunConfig:
    """Three steps a local epoch."""
    return run_config(method, training={"local_epochs": 1, "fuse_every_steps": steps})


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_batches_and_learning_rate_run_on_across_rounds(steps: int) -> None:
    """Twelve steps: four rounds of an epoch, or twelve, six, four or three rounds."""
    data = site_data()
    found = []
    for config, num_rounds in ((every(None), 4), (every(steps), 12 // steps)):
        loaders = [PairLoader(spec_of(config, round_number), data, "cpu") for round_number in range(1, num_rounds + 1)]
        found.append([(at.batch(0, s), at.epoch_of_run(0, s)) for at in loaders for s in range(at.steps_per_epoch)])
    usual, fused = found
    assert len(usual) == len(fused) == 12
    assert [epoch for _, epoch in fused] == [epoch for _, epoch in usual] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for (expected, _), (batch, _) in zip(usual, fused, strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        assert batch.sat_images is not None
        assert expected.sat_images is not None
        assert torch.equal(batch.sat_images, expected.sat_images)


def test_as_many_steps_as_an_epoch_has_are_a_local_epoch_bit_for_bit_and_fewer_are_not(tmp_path: Path) -> None:
    start = [initial_file(every(None), tmp_path)]
    found = {
        steps: train(spec_of(every(steps), round_number=2), site_data(), start, tmp_path / str(steps))
        for steps in (None, 3, 2)
    }
    assert found[3].shared.sha256 == found[None].shared.sha256
    assert found[3].metrics == found[None].metrics
    assert found[2].shared.sha256 != found[None].shared.sha256
    assert found[2].metrics.num_steps == 2


def test_it_says_how_long_a_round_is_so_local_epochs_may_not() -> None:
    with pytest.raises(ValidationError, match="local_epochs to 1"):
        TrainingConfig(fuse_every_steps=8)
    assert TrainingConfig(fuse_every_steps=8, local_epochs=1).steps_a_round(48) == 8
    assert TrainingConfig(local_epochs=3).steps_a_round(48) == 144
