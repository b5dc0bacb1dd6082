import math

import pytest
import torch

from hsl_model.optimise import learning_rate, load_moments, make_optimizer, read_moments
from hsl_model.protocol.config import TrainingConfig

COSINE = TrainingConfig(learning_rate=1.0, learning_rate_floor=0.1)


def test_cosine_goes_down_ten_epochs_and_up_ten() -> None:
    rates = [learning_rate(COSINE, epoch) for epoch in range(21)]
    assert rates[0] == 1.0
    assert rates[5] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)
    assert rates[15] == pytest.approx(0.55)
    assert rates[20] == pytest.approx(1.0)
    assert rates[3] == pytest.approx(0.1 + 0.9 * (1 + math.cos(0.3 * math.pi)) / 2)


def test_restarts_go_back_to_the_top() -> None:
    training = COSINE.model_copy(update={"schedule": "cosine_restarts"})
    assert [learning_rate(training, epoch) for epoch in (0, 10, 20)] == [1.0, 1.0, 1.0]
    assert learning_rate(training, 19) == learning_rate(COSINE, 9) < 0.13


def test_constant_is_constant() -> None:
    training = COSINE.model_copy(update={"schedule": "constant"})
    assert {learning_rate(training, epoch) for epoch in range(30)} == {1.0}


@pytest.mark.parametrize(("kind", "expected"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_moments_survive_the_way_to_arrays_and_back(kind: str, expected: type) -> None:
    network, twin = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    training = TrainingConfig.model_validate({"optimizer": kind, "weight_decay": 0.01})
    optimizer = make_optimizer(network, training)
    assert type(optimizer) is expected
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    assert read_moments(optimizer, network) == {}
    network.weight.grad = torch.ones(2, 3)  # the bias is not stepped and must not appear
    optimizer.step()
    moments = read_moments(optimizer, network)
    assert sorted(moments) == ["exp_avg.weight", "exp_avg_sq.weight", "step.weight"]
    assert moments["exp_avg.weight"] == pytest.approx(0.1, abs=1e-2)
    other = make_optimizer(twin, training)
    load_moments(other, twin, moments)
    assert read_moments(other, twin).keys() == moments.keys()
    twin.load_state_dict(network.state_dict())
    for net, opt in ((network, optimizer), (twin, other)):
        net.weight.grad = torch.full((2, 3), 0.5)
        opt.step()
    assert torch.equal(network.weight, twin.weight)
