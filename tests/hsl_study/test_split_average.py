"""SplitAVG: one node is ordinary training; the gradients are those of the unsplit network; fronts stay at home."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsl_model.batches import PairLoader
from hsl_model.checkpoint import read_tensors
from hsl_model.data import SiteData
from hsl_model.engine import EngineOptions
from hsl_model.losses import binary_cross_entropy
from hsl_model.model_state import initial_network
from hsl_model.network import Network
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_study import split_average
from hsl_study.arm_kinds import SplitConfig
from hsl_study.federation import FederationRound, held_files, run_federation, train_apart
from hsl_study.split_average import cut_bytes, joint_network, parted, split_run, train_together
from tests.hsl_model.engine_helpers import run_config, site_data

SITES = {"clinic-a": site_data(1, num_training=9), "clinic-b": site_data(2, num_training=6)}
OPTIONS = EngineOptions(snapshot_every_steps=None)
CUTS = ("conv1", "layer1")


def tiny(**changes: Any) -> RunConfig:
    return run_config("swarm", **{"num_rounds": 2, "training": {"local_epochs": 1}, **changes})


def federate(
    workdir: Path, cut: str | None, sites: dict[str, SiteData] | None = None, **changes: Any
) -> list[FederationRound]:
    """`cut` None: Swarm."""
    held = sites or SITES
    train = train_apart if cut is None else partial(train_together, SplitConfig.model_validate({"cut": cut}))
    return run_federation(split_run(tiny(**changes), held), held, workdir, OPTIONS, train=train)


def model_of(workdir: Path, node: str) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for path in held_files(workdir, node, 2):
        tensors |= read_tensors(path)
    return tensors


@pytest.mark.parametrize(("cut", "intensity"), [("conv1", "given"), ("layer1", "anchors")])
def test_one_node_is_ordinary_training_bit_for_bit_and_two_are_not_swarm(
    cut: str, intensity: str, tmp_path: Path
) -> None:
    alone, training = {"clinic-a": SITES["clinic-a"]}, {"local_epochs": 1, "intensity": intensity}
    ordinary = federate(tmp_path / "a", None, alone, training=training)
    split = federate(tmp_path / "b", cut, alone, training=training)
    assert [done.mean_auc for done in ordinary] == [done.mean_auc for done in split]
    expected, found = model_of(tmp_path / "a", "clinic-a"), model_of(tmp_path / "b", "clinic-a")
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    federate(tmp_path / "c", None)
    federate(tmp_path / "d", cut)
    expected, found = model_of(tmp_path / "c", "clinic-a"), model_of(tmp_path / "d", "clinic-a")
    assert any(not np.array_equal(expected[name], found[name]) for name in expected)


def networks(num: int, *, equal: bool, **network: Any) -> list[Network]:
    return [initial_network(tiny(network=network, initial={"seed": 0 if equal else at})).train() for at in range(num)]


def gradients(network: Network, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = binary_cross_entropy(network(images, None).primary_logit, labels)
    names, values = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


@pytest.fixture
def union() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(12, 1, 16, 16, generator=random), torch.tensor([1.0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("cut", CUTS)
def test_with_equal_fronts_gradients_are_those_of_the_unsplit_network_on_the_union(
    cut: str, union: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Group norm, since a front's batch norm sees its own rows. A front has its rows' part of the sum."""
    plain = gradients(networks(1, equal=True, normalisation="group")[0], *union)
    found = gradients(joint_network(networks(3, equal=True, normalisation="group"), cut), *union)
    fronts = [parted(found, index)[0] for index in range(3)]
    for name, gradient in parted(found, 0)[1].items():
        torch.testing.assert_close(gradient, plain[name])
    for name in fronts[0]:
        torch.testing.assert_close(fronts[0][name] + fronts[1][name] + fronts[2][name], plain[name])
    weight = "primary_encoder.backbone.conv1.weight"
    assert not torch.allclose(fronts[0][weight], fronts[1][weight]), "no average over rows of unrelated images"


def test_a_front_s_gradient_is_the_k_th_part_of_what_its_own_rows_alone_would_give(
    union: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, labels = union
    joint = joint_network(networks(3, equal=False, normalisation="group"), "conv1")
    found = gradients(joint, images, labels)
    for index in range(3):
        own = initial_network(tiny(network={"normalisation": "group"}))
        front, back = parted(joint.state_dict(), index)
        own.load_state_dict(front | back)
        rows = slice(4 * index, 4 * index + 4)
        alone = gradients(own, images[rows], labels[rows])
        for name, gradient in parted(found, index)[0].items():
            torch.testing.assert_close(gradient, alone[name] / 3)


def test_batch_norm_behind_the_cut_sees_the_union_and_a_front_s_only_its_own(
    union: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, _ = union
    plain = networks(1, equal=True)[0]
    plain(images, None)
    mean = "primary_encoder.backbone.bn1.running_mean"
    by_cut = {}
    for cut in CUTS:
        joint = joint_network(networks(2, equal=True), cut)
        joint(images, None)
        by_cut[cut] = [parted(joint.state_dict(), index) for index in range(2)]
    torch.testing.assert_close(by_cut["conv1"][0][1][mean], plain.state_dict()[mean])
    own = [front[mean] for front, _ in by_cut["layer1"]]
    assert not torch.allclose(own[0], own[1])
    torch.testing.assert_close((own[0] + own[1]) / 2, plain.state_dict()[mean])


def test_fronts_stay_at_home_the_back_is_one_and_the_batches_are_those_of_every_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[tuple[str, int, bytes]]] = {"split": set(), "swarm": set()}
    batch, arm = PairLoader.batch, "split"

    def remember(self: PairLoader, *place: int) -> Any:
        made = batch(self, *place)
        seen[arm].add((*self._spec.key[1:], made.images.numpy().tobytes()))
        return made

    monkeypatch.setattr(PairLoader, "batch", remember)
    rounds = federate(tmp_path / "split", "conv1")
    arm = "swarm"
    federate(tmp_path / "swarm", None)
    assert seen["split"] == seen["swarm"]
    held = {node: held_files(tmp_path / "split", node, 2) for node in SITES}
    private = {node: read_tensors(files[1]) for node, files in held.items()}
    (name,) = private["clinic-a"]
    assert name == "primary_encoder.backbone.conv1.weight"
    assert not np.array_equal(private["clinic-a"][name], private["clinic-b"][name])
    assert held["clinic-a"][2].read_bytes() == held["clinic-b"][2].read_bytes()
    together = read_tensors(tmp_path / "split/nodes/clinic-a/round-0002/together/shared.safetensors")
    back = parted(together, 0)[1]
    fused = read_tensors(held["clinic-a"][2])
    assert all(np.array_equal(fused[name], back[name]) for name in back), "the mean of equal backs is the back"
    scored = [node.validation.auc for node in rounds[-1].nodes.values()]
    kept = rounds[-1].nodes["clinic-a"].metrics
    assert kept is not None
    assert kept.validation_auc == pytest.approx(np.mean(scored))  # type: ignore[arg-type]


def test_killed_between_two_nodes_files_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = federate(tmp_path / "whole", "conv1")
    write, calls = split_average.write_tensors, iter(range(100))

    def break_off(*given: Any) -> Any:
        if next(calls) == 6:  # the second node's files of the second round
            raise KeyboardInterrupt
        return write(*given)

    monkeypatch.setattr(split_average, "write_tensors", break_off)
    with pytest.raises(KeyboardInterrupt):
        federate(tmp_path / "broken", "conv1")
    assert federate(tmp_path / "broken", "conv1") == whole


def test_steps_are_those_of_the_longest_epoch() -> None:
    assert split_run(tiny(training={"images_per_epoch": None}), SITES).training.images_per_epoch == 9
    assert split_run(tiny(), SITES).training.images_per_epoch == 10


@pytest.mark.parametrize(("cut", "num_bytes"), [("conv1", 64 * 112 * 112 * 4), ("layer1", 64 * 56 * 56 * 4)])
def test_bytes_of_an_image_at_the_cut_are_the_published_ones(cut: str, num_bytes: int) -> None:
    """methods.md 4.8: 3.2 MB and 0.80 MB."""
    task = tiny().task.model_copy(update={"height": 224, "width": 224, "channels": 3})
    assert cut_bytes(tiny(network={"encoder": "resnet18"}, task=task), cut) == num_bytes


def test_what_it_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="method of its own"):
        split_run(run_config("fedprox"), SITES)
    with pytest.raises(ConfigError, match="one encoder and no SAT"):
        split_run(run_config("swarm", network={"architecture": "mmoe"}), SITES)
    with pytest.raises(ConfigError, match="micro-batches"):
        train_together(SplitConfig(), [], EngineOptions(micro_batch_size=2))
