import math

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from hsl_model.network import build_network, initialise
from hsl_model.protocol.config import NetworkConfig
from tests.hsl_model.network.helpers import copy_state, small_config, small_network


def test_neither_earlier_randomness_nor_earlier_values_matter() -> None:
    first = copy_state(small_network())
    torch.rand(17)
    network = small_network(seed=5)
    for tensor in network.state_dict().values():
        tensor.fill_(3)
    initialise(network, 0)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, first[name]), name


def test_the_seed_changes_every_random_tensor_and_no_two_are_alike() -> None:
    first, second = copy_state(small_network()), copy_state(small_network(seed=1))
    normalisation = small_network().normalisation_tensors()
    drawn = [name for name in first if name not in normalisation]
    assert not [name for name in drawn if torch.equal(first[name], second[name])]
    assert not torch.equal(first["primary_gate.linear.weight"], first["sat_gate.linear.weight"])
    assert not torch.equal(first["experts.hidden_weight"][0], first["experts.hidden_weight"][1])


OWN_PARTS = ("head.", "hidden.", "second_encoder.", "relation.", "relative_head.")


def test_equal_parts_start_alike_in_every_architecture() -> None:
    mmoe = copy_state(small_network("mmoe"))
    for other in map(small_network, ("trunk", "plain", "twin", "relative")):
        for name, tensor in other.state_dict().items():
            if not name.startswith(OWN_PARTS):
                assert torch.equal(tensor, mmoe[name]), name


@pytest.mark.parametrize("seed", [0, 2**62])
def test_spreads_are_those_of_the_written_rules(seed: int) -> None:
    network = build_network(NetworkConfig(), "mmoe", 3)
    initialise(network, seed)
    state = network.state_dict()

    def spread(name: str, sd: float) -> None:
        assert state[name].std().item() == pytest.approx(sd, rel=0.05), name

    def bound(name: str, limit: float) -> None:
        assert limit * 0.9 < state[name].abs().max().item() <= limit, name

    spread("primary_encoder.backbone.conv1.weight", math.sqrt(2 / (64 * 49)))
    spread("sat_encoder.backbone.layer4.1.conv2.weight", math.sqrt(2 / (512 * 9)))
    spread("sat_encoder.backbone.layer2.0.downsample.0.weight", math.sqrt(2 / 128))
    bound("experts.hidden_weight", math.sqrt(6 / (1024 + 62)))
    bound("experts.output_weight", math.sqrt(6 / (62 + 32)))
    bound("experts.hidden_bias", 1 / math.sqrt(1024))
    bound("experts.output_bias", 1 / math.sqrt(62))
    bound("primary_tower.hidden.weight", math.sqrt(6 / (32 + 16)))
    bound("primary_encoder.projection.weight", 1 / math.sqrt(512))
    bound("sat_skip.weight", 1 / math.sqrt(512))
    bound("primary_gate.linear.weight", 1 / math.sqrt(1024))
    assert state["primary_encoder.backbone.bn1.running_var"].eq(1).all()
    assert state["primary_encoder.backbone.bn1.num_batches_tracked"].item() == 0


def test_the_backbone_is_torchvisions() -> None:
    backbone = build_network(NetworkConfig(), "plain", 3).primary_encoder.backbone
    theirs = resnet18(weights=None)
    theirs.fc = nn.Identity()
    backbone.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(backbone.eval()(images), theirs.eval()(images))


def test_a_module_without_a_rule_is_an_error_not_a_random_start() -> None:
    network = build_network(small_config(), "trunk", 1)
    network.extra = nn.PReLU()
    with pytest.raises(TypeError, match=r"no rule initialises tensor extra\.weight"):
        initialise(network, 0)
