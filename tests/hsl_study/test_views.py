"""Learning from the SAT without labels: the loss is the published one, and no label has any effect."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from hsl_model.batches import PairLoader
from hsl_model.checkpoint import read_tensors
from hsl_model.data import ImageSet
from hsl_model.engine import EngineOptions, initial_tensors
from hsl_model.losses import binary_cross_entropy
from hsl_model.model_state import initial_network
from hsl_model.protocol.errors import ConfigError
from hsl_study.federation import held_files, run_federation
from hsl_study.pretraining import NODE, LearnsFrom, initial_file, prepared, pretraining, started_from_sat
from hsl_study.views import TEMPERATURE, Agreement, ViewBatches, log_odds, train_views, unlabelled, views_run
from tests.hsl_model.engine_helpers import image_set, run_config, site_data, spec_of

OPTIONS = EngineOptions(snapshot_every_steps=None)
SAT = image_set(20, 99)
LITTLE = {"local_epochs": 1}


def start_of(sat: ImageSet, learns_from: LearnsFrom, folder: Path) -> dict[str, np.ndarray]:
    config = run_config("swarm", training=LITTLE, num_rounds=1, convergence={"enabled": False})
    started_from_sat(config, sat, 1, folder, OPTIONS, learns_from)
    return read_tensors(initial_file(folder))


@pytest.mark.parametrize("learns_from", ["views", "labels"])
def test_labels_change_nothing_where_it_learns_from_views(learns_from: LearnsFrom, tmp_path: Path) -> None:
    """Permuted, and all alike; where it learns from labels they change the start."""
    turned = ImageSet(SAT.images, 1 - SAT.labels)
    permuted = ImageSet(SAT.images, np.roll(SAT.labels, 1))
    starts = [start_of(sat, learns_from, tmp_path / str(at)) for at, sat in enumerate((SAT, turned, permuted))]
    for other in starts[1:]:
        same = all(np.array_equal(starts[0][name], other[name]) for name in other)
        assert same == (learns_from == "views")


def test_other_images_give_another_start(tmp_path: Path) -> None:
    first, second = (start_of(image_set(20, seed), "views", tmp_path / str(seed)) for seed in (98, 99))
    encoder = [name for name in first if name.startswith("primary_encoder.") and first[name].ndim == 4]
    assert encoder
    assert all(not np.array_equal(first[name], second[name]) for name in encoder)


def test_the_loss_is_that_of_the_paper() -> None:
    """Row by row: cross-entropy of a softmax over all views but itself, in which the other view is the answer."""
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    directions = features / features.norm(dim=1, keepdim=True)
    rows = []
    for view in range(6):
        others = [other for other in range(6) if other != view]
        likeness = directions[others] @ directions[view] / TEMPERATURE
        rows.append(functional.cross_entropy(likeness, torch.tensor(others.index((view + 3) % 6))))
    found = binary_cross_entropy(log_odds(features), torch.ones(6))
    torch.testing.assert_close(found, torch.stack(rows).mean())


def test_log_odds_by_hand() -> None:
    """Two images whose views are alike, at right angles to each other: 1/T against twice exp(0)."""
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    assert log_odds(features).tolist() == pytest.approx([1 / TEMPERATURE - math.log(2)] * 4)


def test_a_batch_is_two_views_of_the_same_images() -> None:
    """Without changes the two halves are equal; with them no view is, and the first are not those of the second."""
    data = site_data()
    run = pretraining(run_config("swarm", training=LITTLE), 1)
    still = run.training.model_copy(update={"augment": False, "photometric": 0.0, "balanced_sampler": False})
    loader = PairLoader(spec_of(run.model_copy(update={"training": still})), data, "cpu")
    batch = ViewBatches(loader).batch(0, 1)
    assert torch.equal(batch.images[:4], batch.images[4:])
    assert torch.equal(batch.images[:4], loader.batch(0, 1).images)
    assert batch.labels.tolist() == [1.0] * 8
    changed = ViewBatches(PairLoader(spec_of(views_run(run, len(data.training))), data, "cpu")).batch(0, 1)
    assert changed.images.shape == batch.images.shape
    differs = (changed.images[:4] != changed.images[4:]).flatten(1).any(dim=1)
    assert differs.all()


def test_no_batch_holds_an_image_twice_and_none_is_held_out() -> None:
    run, site, _ = prepared(pretraining(run_config("swarm", training={"images_per_epoch": 50}), 1), SAT, "views")
    assert (run.training.images_per_epoch, run.training.share_epoch) == (20, "last")
    assert (len(site.training), len(site.validation), site.training.labels.any()) == (20, 0, False)
    plain = run.training.model_copy(update={"augment": False, "photometric": 0.0})
    loader = PairLoader(spec_of(run.model_copy(update={"training": plain})), site, "cpu")
    seen = [image.numpy().tobytes() for step in range(loader.steps_per_epoch) for image in loader.batch(0, step).images]
    assert len(seen) == len(set(seen)) == 20


def test_it_learns_to_tell_an_image_by_another_view(tmp_path: Path) -> None:
    """Of patterns of 4 x 4 fields. Chance is log(2B - 1); there, a label-free start would be another random start."""
    fields = np.random.default_rng(5).integers(0, 256, (64, 1, 4, 4), dtype=np.uint8)
    many = ImageSet(np.kron(fields, np.ones((4, 4), dtype=np.uint8)), np.zeros(64, dtype=np.uint8))
    steps = {"batch_size": 16, "local_epochs": 10, "images_per_epoch": 64, "schedule": "constant"}
    config = run_config("swarm", training=steps, network={"normalisation": "group"})
    run, site, train = prepared(pretraining(config, 2), many, "views")
    metrics = run_federation(run, {NODE: site}, tmp_path, OPTIONS, train=train)[-1].nodes[NODE].metrics
    assert metrics is not None
    assert metrics.training_loss is not None
    assert metrics.training_loss < 0.5 * math.log(31)
    trained = read_tensors(held_files(tmp_path, NODE, 2)[-1])
    assert all(np.array_equal(trained[name], value) for name, value in initial_tensors(run).items() if "head" in name)


def test_what_it_trains_has_the_tensors_of_the_network_it_is_for() -> None:
    network = initial_network(run_config("swarm", network={"architecture": "trunk", "normalisation": "group"}))
    agreement = Agreement(network)
    assert list(agreement.state_dict()) == list(network.state_dict())
    views = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    assert agreement(views, None).primary_logit.shape == (6,)
    with pytest.raises(NotImplementedError, match="scores no image"):
        agreement.score(views, None)


def test_micro_batches_are_refused() -> None:
    with pytest.raises(ConfigError, match="leave micro_batch_size out"):
        train_views([], EngineOptions(micro_batch_size=2))
    assert not np.any(unlabelled(SAT).sat.labels)
