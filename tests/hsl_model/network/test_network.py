import pytest
import torch
from torch import nn

from hsl_model.network import Network, build_network
from hsl_model.network.encoders import Encoder, sat_statistics
from hsl_model.protocol.config import NetworkConfig
from tests.hsl_model.network.helpers import changed, copy_state, images, small_config, small_network


def published(architecture: str, channels: int = 3) -> Network:
    with torch.device("meta"):  # shapes only
        return build_network(NetworkConfig(), architecture, channels)


def count(network: nn.Module, *parts: str) -> int:
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not parts or name.split(".")[0].endswith(parts)
    )


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    network = published("mmoe")
    assert count(network) == 23_723_650
    assert count(network, "encoder") == 22_878_336
    assert count(network, "skip") == 32_832
    assert count(network, "experts") == 786_792
    assert count(network, "tower") == 1_090
    assert count(network, "gate") == 24_600
    assert sum(buffer.numel() for buffer in network.buffers()) == 2 * (2 * 4800 + 20)


def test_the_other_architectures_are_parts_of_it() -> None:
    mmoe, trunk, plain = published("mmoe"), published("trunk"), published("plain")
    assert count(plain) == 11_177_025
    assert count(trunk) == 22_878_336 // 2 + 32_832 // 2 + 1_090 // 2
    shapes = {name: tensor.shape for name, tensor in mmoe.state_dict().items()}
    assert {name: tensor.shape for name, tensor in trunk.state_dict().items()}.items() <= shapes.items()
    assert {name for name in plain.state_dict() if name not in shapes} == {"head.weight", "head.bias"}


@pytest.mark.parametrize("config", [NetworkConfig(), small_config(), small_config(num_experts=12, encoders="shared")])
def test_the_twin_has_two_encoders_of_the_primary_image_and_the_size_of_the_mixture(config: NetworkConfig) -> None:
    with torch.device("meta"):
        twin = build_network(config, "twin", 3)
        mmoe = build_network(config.model_copy(update={"encoders": "separate"}), "mmoe", 3)
    assert abs(count(twin) - count(mmoe)) <= 513
    assert count(twin, "encoder") == count(mmoe, "encoder")
    network = small_network("twin")
    network(images(4), None).primary_logit.sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_every_parameter_is_trained() -> None:
    for changes in ({}, {"encoders": "shared"}, {"normalisation": "group"}):
        network = small_network(**changes)
        output = network(images(4), images(4, seed=1))
        assert output.sat_logit is not None
        (output.primary_logit.sum() + output.sat_logit.sum()).backward()
        without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert not without, changes


@pytest.mark.parametrize("architecture", ["mmoe", "trunk", "plain", "twin", "relative"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 33)])
def test_channels_and_size_are_free(architecture: str, channels: int, size: int) -> None:
    network = small_network(architecture, channels)
    num_sat = {"mmoe": 4, "relative": 16}.get(architecture)
    sat = None if num_sat is None else images(num_sat, seed=1, channels=channels, size=size)
    output = network(images(4, channels=channels, size=size), sat)
    assert output.primary_logit.shape == (4,)
    if architecture == "mmoe":
        assert output.sat_logit.shape == (4,)
        assert output.mixture_ratio.shape == ()
        assert not output.mixture_ratio.requires_grad
    else:
        assert output.sat_logit is None
        assert output.mixture_ratio is None


@pytest.mark.parametrize("encoder", ["resnet18", "resnet_small"])
@pytest.mark.parametrize("normalisation", ["batch", "group"])
def test_encoders_give_512_features(encoder: str, normalisation: str) -> None:
    network = build_network(small_config(encoder=encoder, normalisation=normalisation), "plain", 1)
    features = network.primary_encoder(images(2, size=32))
    assert features.shape == (2, 512)
    assert features.min() >= 0


def test_the_mmoe_network_wants_a_pair() -> None:
    with pytest.raises(ValueError, match="shared anchor task"):
        small_network()(images(2), None)
    with pytest.raises(ValueError, match="no shared anchor task"):
        small_network("trunk").anchor_features(images(2))


@pytest.mark.parametrize("part", ["tower", "gate"])
def test_swapping_a_part_of_one_task_changes_the_output_of_that_task_only(part: str) -> None:
    network, other = small_network().eval(), small_network(seed=1)
    before = network(images(3), images(3, seed=1))
    for task, untouched in (("primary", "sat"), ("sat", "primary")):
        kept = getattr(network, f"{task}_{part}")
        setattr(network, f"{task}_{part}", getattr(other, f"{task}_{part}").eval())
        after = network(images(3), images(3, seed=1))
        setattr(network, f"{task}_{part}", kept)
        assert not torch.equal(getattr(after, f"{task}_logit"), getattr(before, f"{task}_logit"))
        assert torch.equal(getattr(after, f"{untouched}_logit"), getattr(before, f"{untouched}_logit"))


@pytest.mark.parametrize("changes", [{}, {"encoders": "shared"}])
def test_sat_images_never_touch_the_statistics_of_the_scored_encoder(changes: dict[str, str]) -> None:
    network, other = small_network(**changes), small_network(**changes)
    network(images(4), images(4, seed=1))
    other(images(4), 100 * images(4, seed=2))
    names = network.normalisation_tensors()
    differing = changed(network, copy_state(other))
    scored = {name for name in names if name.startswith("primary_encoder") and ".sat." not in name}
    assert differing
    assert differing <= names - scored
    anchors = torch.rand(2, 512)
    assert torch.equal(network.score(images(2, seed=3), anchors), other.score(images(2, seed=3), anchors))


def test_a_shared_encoder_has_one_set_of_weights_and_two_of_statistics() -> None:
    network = small_network(encoders="shared")
    assert [name for name, module in network.named_modules() if isinstance(module, Encoder)] == ["primary_encoder"]
    assert not torch.equal(network.anchor_features(10 + images(2)), network.primary_encoder(10 + images(2)))
    before = copy_state(network)
    with pytest.raises(RuntimeError), sat_statistics(network):
        raise RuntimeError
    network.train().primary_encoder(images(4))
    assert not any(".sat." in name for name in changed(network, before))


def test_group_normalisation_has_no_statistics() -> None:
    network = small_network(normalisation="group", encoders="shared")
    assert network.normalisation_tensors() == frozenset()
    assert not list(network.buffers())


def test_batch_normalisation_is_found_by_type_with_its_down_sampling_branches() -> None:
    network = published("plain")
    names = network.normalisation_tensors()
    assert len(names) == 20 * 5
    assert {
        "primary_encoder.backbone.layer2.0.downsample.1.running_mean",
        "primary_encoder.backbone.bn1.weight",
    } < names
    state = network.state_dict()
    assert sum(state[name].numel() for name in names if not name.endswith("num_batches_tracked")) == 19_200
    assert len(small_network(encoders="shared").normalisation_tensors()) == 2 * 9 * 5
