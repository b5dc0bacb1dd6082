"""The relative network: an image is known by its cosines to fixed anchors."""

import pytest
import torch

from hsl_model.network.anchors import AnchorCosines
from hsl_model.network.initial import SCALE
from hsl_model.network.network import SCORING_BATCH, Network, RelativeNetwork, build_network
from tests.hsl_model.network.helpers import changed, copy_state, images, small_config, small_network

NUM_ANCHORS = 16


def relative(**changes: str) -> RelativeNetwork:
    network = small_network("relative", normalisation="group", **changes)
    assert isinstance(network, RelativeNetwork)
    return network


def test_cosines_by_hand() -> None:
    """Anchors (0, 0), (4, 0), (2, 3): centre (2, 1). The image (4, 2) is (2, 1) from it."""
    cosines = AnchorCosines()
    cosines.scale.data.fill_(3.0)
    anchors = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 3.0]])
    found = cosines.cosines(torch.tensor([[4.0, 2.0]]), anchors)
    assert found.tolist() == [pytest.approx([-1.0, 3 / 5, 1 / 5**0.5])]
    assert cosines(torch.tensor([[4.0, 2.0]]), anchors).tolist() == [pytest.approx([-3.0, 9 / 5, 3 / 5**0.5])]


def test_cosines_lie_between_minus_one_and_one_and_use_that_range() -> None:
    """Of an anchor with itself it is 1. Without the centre all would be close to 1, as features of a ReLU are."""
    network = relative()
    features, anchors = (network.anchor_features(images(count, seed)) for count, seed in ((40, 1), (NUM_ANCHORS, 2)))
    found = network.relation.cosines(features, anchors)
    assert found.shape == (40, NUM_ANCHORS)
    assert found.abs().max() <= 1.0 + 1e-6
    assert found.min() < -0.3
    assert found.max() > 0.3
    own = network.relation.cosines(anchors, anchors)
    torch.testing.assert_close(own.diagonal(), torch.ones(NUM_ANCHORS))


def test_an_image_on_the_centre_has_cosines_of_zero_and_a_finite_gradient() -> None:
    anchors = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    image = torch.tensor([[1.0, 1.0]], requires_grad=True)
    cosines = AnchorCosines().cosines(image, anchors)
    assert cosines.tolist() == [[0.0, 0.0]]
    cosines.sum().backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()


def test_the_gradient_reaches_the_encoder_through_the_anchors() -> None:
    """Of one logit: beside the same anchors as constants it would be another."""
    network = relative()
    primary, anchors = images(4, seed=1), images(NUM_ANCHORS, seed=2).requires_grad_()
    network(primary, anchors).primary_logit.sum().backward()
    assert anchors.grad is not None
    assert (anchors.grad.flatten(1).abs().sum(dim=1) > 0).all()
    whole = network.primary_encoder.backbone.conv1.weight.grad.clone()
    network.zero_grad()
    constant = network.anchor_features(anchors.detach())
    network._related(network.primary_encoder(primary), constant).sum().backward()
    assert not torch.allclose(network.primary_encoder.backbone.conv1.weight.grad, whole)
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_training_and_scoring_see_one_and_the_same_network() -> None:
    network = relative()
    primary, anchors = images(11, seed=1), images(NUM_ANCHORS, seed=2)
    scores = network.score(primary, network.anchor_features(anchors))
    torch.testing.assert_close(network(primary, anchors).primary_logit, scores)
    assert scores.std() > 1e-3


@pytest.mark.parametrize("encoder", ["resnet_small", "resnet18"])
def test_a_score_has_the_same_bits_whoever_is_scored_beside_it(encoder: str) -> None:
    network = relative(encoder=encoder)
    anchors = network.anchor_features(images(NUM_ANCHORS, seed=2, size=32))
    cases = images(SCORING_BATCH + 3, seed=1, size=32)
    expected = network.score(cases, anchors)
    for size in (1, 2, SCORING_BATCH):
        assert torch.equal(torch.cat([network.score(part, anchors) for part in torch.split(cases, size)]), expected)
    assert torch.equal(network.score(cases.flip(0), anchors), expected.flip(0))


def test_in_training_a_logit_does_not_depend_on_the_other_images() -> None:
    network, anchors = relative(), images(NUM_ANCHORS, seed=2)
    case = images(1, seed=1)
    logits = [network(torch.cat((case, images(3, seed=seed))), anchors).primary_logit[0] for seed in (3, 4)]
    torch.testing.assert_close(*logits)


def test_other_anchors_give_other_scores_and_the_head_is_as_wide_as_there_are_anchors() -> None:
    network = relative()
    first, second = (network.anchor_features(images(NUM_ANCHORS, seed)) for seed in (2, 3))
    assert not torch.allclose(network.score(images(3), first), network.score(images(3), second))
    built = build_network(small_config(normalisation="group"), "relative", 1, 32)
    assert built.state_dict()["relative_head.weight"].shape == (1, 32)
    assert set(built.state_dict()) - set(small_network("plain", normalisation="group").state_dict()) == {
        "relation.scale", "relative_head.weight", "relative_head.bias"
    }  # fmt: skip
    assert small_network("relative").state_dict()["relation.scale"].tolist() == [SCALE]


def test_it_wants_its_anchors() -> None:
    network: Network = relative()
    with pytest.raises(ValueError, match="needs the anchors beside the primary images"):
        network(images(2), None)
    with pytest.raises(ValueError, match="scores an image beside its anchors"):
        network.score(images(2), None)
    before = copy_state(network)
    network.score(images(2), network.anchor_features(images(NUM_ANCHORS, seed=2)))
    assert changed(network, before) == set()
    assert network.primary_encoder.training
