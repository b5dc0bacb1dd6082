"""hsl, fedavg, swarm and personalised: what a step minimises."""

import math
from dataclasses import replace

import pytest
import torch

from hsl_model.batches import Batch, PairLoader
from hsl_model.losses import binary_cross_entropy, task_loss
from hsl_model.methods import load
from hsl_model.methods.base import LocalRun
from hsl_model.model_state import initial_network
from hsl_model.network import NetworkOutput
from tests.hsl_model.engine_helpers import run_config, site_data, spec_of

# z1 = (0, ln 3), y1 = (1, 0): losses ln 2 and ln 4;  z2 = (0, 0), y2 = (1, 0): losses ln 2 and ln 2
OUTPUT = NetworkOutput(torch.tensor([0.0, math.log(3.0)]), torch.zeros(2), None)
LABELS = torch.tensor([1.0, 0.0])
IMAGES = torch.zeros(2, 1, 4, 4)
PAIR = Batch(IMAGES, LABELS, IMAGES, LABELS)
PRIMARY, SAT = (math.log(2) + math.log(4)) / 2, math.log(2)


def untrained(method: str) -> LocalRun:
    network = initial_network(run_config(method))
    return LocalRun(network.eval())


def test_cross_entropy_on_logits_by_hand() -> None:
    assert binary_cross_entropy(OUTPUT.primary_logit, LABELS).item() == pytest.approx(PRIMARY)


@pytest.mark.parametrize(
    ("weight", "expected"), [(0.5, (PRIMARY + SAT) / 2), (0.0, PRIMARY), (0.1, 0.9 * PRIMARY + 0.1 * SAT)]
)
def test_hsl_weighs_both_tasks(weight: float, expected: float) -> None:
    loss = load("hsl", {"sat_weight": weight}).loss(untrained("hsl"), OUTPUT, PAIR)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["fedavg", "swarm", "personalised", "fedbn", "local"])
def test_other_methods_train_the_shared_anchor_task_where_the_network_has_one(method: str) -> None:
    assert load(method, {}).loss(untrained(method), OUTPUT, PAIR).item() == pytest.approx((PRIMARY + SAT) / 2)
    plain = replace(OUTPUT, sat_logit=None)
    assert load(method, {}).loss(untrained(method), plain, Batch(IMAGES, LABELS)).item() == pytest.approx(PRIMARY)


def test_no_sat_shows_the_primary_image_twice_and_trains_tower_one_alone() -> None:
    method = load("hsl", {"use_sat": False})
    pair = PairLoader(spec_of(run_config("hsl")), site_data(), "cpu").batch(0, 0)
    seen = method.select(pair)
    assert seen.sat_images is pair.images
    assert torch.equal(seen.labels, pair.labels)
    assert seen.sat_labels is None
    assert method.loss(untrained("hsl"), OUTPUT, method.select(PAIR)).item() == pytest.approx(PRIMARY)


def test_no_sat_scores_as_it_trains_with_the_image_itself() -> None:
    run = untrained("hsl")
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    anchors = run.network.anchor_features(images)
    with torch.inference_mode():
        found = load("hsl", {"use_sat": False}).predict(run.network, images, anchors)
        torch.testing.assert_close(found, run.network(images, images).primary_logit, rtol=1e-5, atol=1e-6)
        assert not torch.equal(found, load("hsl", {}).predict(run.network, images, anchors))


def test_the_loss_of_half_precision_logits_is_computed_in_full() -> None:
    half = NetworkOutput(torch.tensor([200.0, -200.0], dtype=torch.bfloat16), None, None)
    loss = task_loss(half, Batch(IMAGES, LABELS))
    assert loss.dtype == torch.float32
    assert loss.item() == 0.0
