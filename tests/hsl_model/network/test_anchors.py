from collections.abc import Callable

import numpy as np
import pytest
import torch

from hsl_model.network import Network, choose_anchors
from hsl_model.network.network import SCORING_BATCH
from hsl_model.protocol.errors import ConfigError
from tests.hsl_model.network.helpers import changed, copy_state, images, small_network

LABELS = np.array([0, 1] * 10 + [0] * 30, np.uint8)


@pytest.mark.parametrize(("num_anchors", "negative", "positive"), [(16, 8, 8), (7, 4, 3), (2, 1, 1)])
def test_anchors_are_balanced_and_fixed(num_anchors: int, negative: int, positive: int) -> None:
    chosen = choose_anchors(LABELS, num_anchors, 0)
    assert len(set(chosen.tolist())) == num_anchors
    assert np.bincount(LABELS[chosen]).tolist() == [negative, positive]
    np.testing.assert_array_equal(chosen, choose_anchors(LABELS, num_anchors, 0))
    assert chosen.tolist() == sorted(chosen.tolist())
    assert num_anchors == 2 or chosen.tolist() != choose_anchors(LABELS, num_anchors, 1).tolist()


def test_too_few_images_of_a_class_are_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="10 images of class 1, but 11 anchors of it are wanted; build a larger SAT"):
        choose_anchors(LABELS, 22, 0)


def trained_a_little(**changes: str) -> Network:
    """With running statistics and weights that make the mixture matter."""
    network = small_network(mixture_scale=1024, **changes)
    for step in range(3):
        network(images(8, seed=10 + step), images(8, seed=20 + step))
    return network


def scorer(network: Network, anchors: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """Images -> logits beside fixed anchors, whose features are computed once."""
    features = None if anchors is None else network.anchor_features(anchors)
    return lambda cases: network.score(cases, features)


@pytest.mark.parametrize("architecture", ["mmoe", "trunk", "plain"])
def test_a_score_has_the_same_bits_whatever_the_batch(architecture: str) -> None:
    """Bit equality, not closeness: see `SCORING_BATCH`."""
    network = trained_a_little() if architecture == "mmoe" else small_network(architecture)
    cases = images(2 * SCORING_BATCH + 3, seed=1)
    score = scorer(network, images(6, seed=2) if architecture == "mmoe" else None)
    expected = score(cases)
    assert torch.equal(score(cases), expected)
    for size in (1, 2, 3, SCORING_BATCH, SCORING_BATCH + 1):
        parts = [score(part) for part in torch.split(cases, size)]
        assert torch.equal(torch.cat(parts), expected), f"batches of {size}"
    order = torch.randperm(len(cases), generator=torch.Generator().manual_seed(0))
    assert torch.equal(score(cases[order]), expected[order])
    mates = 1000 * images(SCORING_BATCH, seed=3)
    for place in range(SCORING_BATCH):
        mates[place] = cases[0]
        assert torch.equal(score(mates)[place], expected[0]), f"place {place}"


@pytest.mark.parametrize("num_threads", [1, 2])
def test_resnet18_scores_have_the_same_bits_whatever_the_batch(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    network = small_network(encoder="resnet18", mixture_scale=1024)
    cases = images(3, seed=1, size=48)
    score = scorer(network, images(4, seed=2, size=48))
    expected = score(cases)
    assert torch.equal(torch.cat([score(case[None]) for case in cases]), expected)
    assert torch.equal(score(cases.flip(0)), expected.flip(0))


@pytest.mark.parametrize("encoders", ["separate", "shared"])
def test_a_score_is_the_mean_logit_over_the_pairs_with_all_anchors(encoders: str) -> None:
    network = trained_a_little(encoders=encoders)
    cases, anchors = images(3, seed=1), images(4, seed=2)
    found = scorer(network, anchors)(cases)
    network.eval()
    for case, score in zip(cases, found, strict=True):
        pairs = network(case.expand(4, -1, -1, -1), anchors).primary_logit
        assert pairs.std() > 1e-3  # the partner matters here, so the mean says something
        torch.testing.assert_close(score, pairs.mean())


@pytest.mark.parametrize("encoders", ["separate", "shared"])
def test_without_anchors_an_image_is_its_own_partner(encoders: str) -> None:
    network = trained_a_little(encoders=encoders)
    cases = images(3, seed=1)
    found = network.score(cases, None)
    torch.testing.assert_close(found, network.eval()(cases, cases).primary_logit)


@pytest.mark.parametrize("architecture", ["trunk", "plain"])
def test_networks_without_a_second_input_ignore_the_anchors(architecture: str) -> None:
    network = small_network(architecture)
    assert torch.equal(network.score(images(2), torch.rand(4, 512)), network.score(images(2), None))


def test_scoring_changes_nothing_in_a_network_in_training() -> None:
    network = small_network()
    before = copy_state(network)
    scores = scorer(network, images(4))(images(3))
    assert not scores.requires_grad
    assert changed(network, before) == set()
    assert all(module.training for module in network.modules())
    network.primary_encoder.eval()  # someone froze a part: it stays frozen
    network.score(images(2), None)
    assert not any(module.training for module in network.primary_encoder.modules())
    assert network.sat_encoder.training


def test_the_mixture_ratio_is_over_images_at_each_anchor_by_itself() -> None:
    network = trained_a_little()
    cases, anchors = images(11, seed=1), network.anchor_features(images(4, seed=2))
    found = network.mixture_ratio(torch.split(cases, 3), anchors)
    alone = [network.mixture_ratio([cases], anchors[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(found, torch.stack(alone).mean())
    same_image = cases[:1].expand(11, -1, -1, -1)
    assert network.mixture_ratio([same_image], anchors) < 1e-3 * found, "anchors differ, the images do not"
    tenfold = torch.nn.utils.parameters_to_vector(network.primary_skip.parameters()) * 10
    torch.nn.utils.vector_to_parameters(tenfold, network.primary_skip.parameters())
    torch.testing.assert_close(network.mixture_ratio([cases], anchors), found / 10)
    assert network.mixture_ratio([cases[:1]], anchors) is None
    assert small_network("plain").mixture_ratio([cases], anchors) is None
