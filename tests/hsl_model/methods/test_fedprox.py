from pathlib import Path

import numpy as np
import pytest
import torch

from hsl_model.batches import PairLoader
from hsl_model.checkpoint import read_tensors
from hsl_model.methods import load
from hsl_model.methods.base import LocalRun
from hsl_model.model_state import initial_network
from tests.hsl_model.engine_helpers import initial_file, run_config, site_data, spec_of, train


def test_the_proximal_term_and_its_gradient_by_hand() -> None:
    """One tensor of n numbers moved by 2: the term is 0.1 / 2 x 4 n, its gradient 0.1 x 2 there and 0 elsewhere."""
    network = initial_network(run_config("fedprox"))
    run = LocalRun(network.eval())
    prox, fedavg = load("fedprox", {"mu": 0.1}), load("fedavg", {})
    prox.begin_round(run)
    moved, parameter = next(iter(network.named_parameters()))
    with torch.no_grad():
        parameter += 2.0
    batch = PairLoader(spec_of(run_config("fedprox")), site_data(), "cpu").batch(0, 0)
    output = network(batch.images, None)
    losses = [method.loss(run, output, batch) for method in (prox, fedavg)]
    assert (losses[0] - losses[1]).item() == pytest.approx(0.05 * 4 * parameter.numel(), rel=1e-5)
    parameters = dict(network.named_parameters())
    gradients = [torch.autograd.grad(loss, list(parameters.values()), retain_graph=True) for loss in losses]
    for name, with_term, without in zip(parameters, *gradients, strict=True):
        torch.testing.assert_close(with_term - without, torch.full_like(without, 0.2 if name == moved else 0.0))


def test_what_it_remembers_is_the_start_and_buffers_are_left_out() -> None:
    network = initial_network(run_config("fedprox"))
    run = LocalRun(network)
    load("fedprox", {}).begin_round(run)
    assert run.memory.keys() == dict(network.named_parameters()).keys()
    assert not set(run.memory) & set(dict(network.named_buffers()))


def test_mu_zero_is_fedavg_bit_for_bit(tmp_path: Path) -> None:
    start = [initial_file(run_config("fedavg"), tmp_path)]
    fedavg = train(spec_of(run_config("fedavg")), site_data(), start, tmp_path / "fedavg")
    prox = train(spec_of(run_config("fedprox", options={"mu": 0})), site_data(), start, tmp_path / "fedprox")
    assert prox.shared.sha256 == fedavg.shared.sha256
    assert prox.metrics == fedavg.metrics


def test_a_large_mu_stays_near_the_start(tmp_path: Path) -> None:
    start = [initial_file(run_config("fedavg"), tmp_path)]
    initial = read_tensors(start[0])
    names = [name for name, _ in initial_network(run_config("fedavg")).named_parameters()]

    def distance(mu: float) -> float:
        config = run_config("fedprox", options={"mu": mu}, training={"local_epochs": 4, "share_epoch": "last"})
        shared = read_tensors(train(spec_of(config), site_data(), start, tmp_path / str(mu)).shared.path)
        return float(sum(np.square(shared[name] - initial[name]).sum() for name in names))

    assert distance(100.0) < 0.5 * distance(0.0)
