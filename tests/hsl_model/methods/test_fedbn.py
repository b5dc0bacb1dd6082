from pathlib import Path

import numpy as np
import torch

from hsl_model.checkpoint import read_tensors
from hsl_model.engine import shared_names
from hsl_model.model_state import initial_network
from tests.hsl_model.engine_helpers import initial_file, run_config, site_data, spec_of, train


def batch_norm_tensors(network: torch.nn.Module) -> set[str]:
    """Found here by a walk of its own over the modules."""
    found = set()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            found |= {f"{name}.{tensor}" for tensor in module.state_dict()}
    return found


def test_batch_normalisation_stays_at_home_whatever_its_name(tmp_path: Path) -> None:
    config = run_config("fedbn")
    result = train(spec_of(config), site_data(), [initial_file(config, tmp_path)], tmp_path / "w")
    network = initial_network(config)
    private = batch_norm_tensors(network)
    assert private
    assert result.private is not None
    assert set(read_tensors(result.private.path)) == private
    assert set(read_tensors(result.shared.path)) == set(network.state_dict()) - private
    assert {spec.name for spec in shared_names(config)} == set(network.state_dict()) - private


def test_resnet18_keeps_twenty_layers_at_home() -> None:
    """methods.md 4.6: 20 layers, 19,200 floats; three of them are called `downsample.1`."""
    config = run_config("fedbn", network={"encoder": "resnet18"})
    every = {spec.name: spec for spec in shared_names(run_config("swarm", network={"encoder": "resnet18"}))}
    private = [every[name] for name in every.keys() - {spec.name for spec in shared_names(config)}]
    floats = [spec for spec in private if spec.dtype == "F32"]
    assert len(private) == 20 * 5
    assert sum(int(np.prod(spec.shape)) for spec in floats) == 19_200
    assert any("downsample.1" in spec.name for spec in private)


def test_private_tensors_of_two_nodes_differ_after_a_round(tmp_path: Path) -> None:
    config = run_config("fedbn")
    start = [initial_file(config, tmp_path)]
    results = [
        train(spec_of(config, node_id=node), site_data(seed), start, tmp_path / node)
        for node, seed in (("clinic-a", 1), ("clinic-b", 2))
    ]
    assert results[0].private is not None
    assert results[1].private is not None
    assert results[0].private.sha256 != results[1].private.sha256


def test_without_batch_norm_it_is_swarm(tmp_path: Path) -> None:
    group = {"normalisation": "group"}
    start = [initial_file(run_config("swarm", network=group), tmp_path)]
    fedbn = train(spec_of(run_config("fedbn", network=group)), site_data(), start, tmp_path / "fedbn")
    swarm = train(spec_of(run_config("swarm", network=group)), site_data(), start, tmp_path / "swarm")
    assert fedbn.private is None
    assert fedbn.shared.sha256 == swarm.shared.sha256
    assert fedbn.metrics == swarm.metrics
