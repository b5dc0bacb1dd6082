import pytest
import torch
from torch import Tensor, nn

from hsl_model.network.initial import _rules
from hsl_model.network.mixture import Experts, Gate, JointEmbedding, Tower, mix, spread_ratio
from tests.hsl_model.network.helpers import images, small_config, small_network

H1 = 3 * torch.rand(5, 512, generator=torch.Generator().manual_seed(1))
H2 = 3 * torch.rand(5, 512, generator=torch.Generator().manual_seed(2))


def filled(module: nn.Module) -> nn.Module:
    for name, rule in _rules(nn.ModuleDict({"part": module})).items():
        rule(dict(module.named_parameters())[name.removeprefix("part.")].detach(), torch.Generator().manual_seed(3))
    return module.eval()


def test_the_embedding_is_a_softmax_over_both_tasks_and_sums_to_one() -> None:
    embedding = JointEmbedding(small_config())(H1, H2)
    assert embedding.shape == (5, 1024)
    torch.testing.assert_close(embedding.sum(dim=1), torch.ones(5))
    weights = torch.exp(torch.cat((H1, H2), dim=1) / 3.0)
    torch.testing.assert_close(embedding, weights / weights.sum(dim=1, keepdim=True))


def test_temperature_and_scale_stand_where_they_are_put() -> None:
    cold, warm = (JointEmbedding(small_config(temperature=t))(H1, H2) for t in (0.3, 3.0))
    assert cold.max() > 5 * warm.max()
    torch.testing.assert_close(JointEmbedding(small_config(mixture_scale=1024))(H1, H2), 1024 * warm)
    on_gate = small_config(temperature=0.3, temperature_on="gate")
    assert torch.equal(JointEmbedding(on_gate)(H1, H2), JointEmbedding(small_config(temperature=1))(H1, H2))
    values = torch.rand(4, 1024)
    gate, plain = filled(Gate(on_gate)), filled(Gate(small_config()))
    torch.testing.assert_close(gate(values), torch.softmax(gate.linear(values) / 0.3, dim=1))
    torch.testing.assert_close(plain(values), torch.softmax(plain.linear(values), dim=1))
    assert not torch.equal(gate(values), plain(values))


def test_the_layernorm_embedding_has_entries_of_the_order_of_one() -> None:
    embedding = JointEmbedding(small_config(embedding="layernorm", temperature=2, mixture_scale=4))(H1, H2)
    torch.testing.assert_close(embedding.mean(dim=1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(embedding.std(dim=1, correction=0), torch.full((5,), 2.0), atol=1e-3, rtol=0)


def slow_experts(experts: Experts, embedding: Tensor) -> Tensor:
    """The obvious loop: expert by expert, image by image."""
    rows = []
    for image in embedding:
        outputs = []
        for i in range(len(experts.hidden_weight)):
            hidden = torch.relu(experts.hidden_weight[i] @ image + experts.hidden_bias[i])
            outputs.append(experts.output_weight[i] @ hidden + experts.output_bias[i])
        rows.append(torch.stack(outputs))
    return torch.stack(rows)


def test_batched_experts_equal_a_loop_over_experts() -> None:
    experts = filled(Experts(12)).double()
    embedding = torch.randn(6, 1024, generator=torch.Generator().manual_seed(0)).double()
    expected = slow_experts(experts, embedding)
    assert expected.shape == (6, 12, 32)
    torch.testing.assert_close(experts(embedding), expected)
    gradients = [
        torch.autograd.grad((way(embedding) ** 2).sum(), list(experts.parameters()))
        for way in (experts, lambda values: slow_experts(experts, values))
    ]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted)


def test_dropout_acts_in_training_only() -> None:
    experts = filled(Experts(3))
    quiet = experts(H1.repeat(1, 2))
    assert torch.equal(experts(H1.repeat(1, 2)), quiet)
    experts.train()
    assert not torch.equal(experts(H1.repeat(1, 2)), quiet)
    assert torch.equal(experts.without_dropout(H1.repeat(1, 2)), quiet)


def test_the_mixture_is_the_gated_sum() -> None:
    gate = torch.tensor([[0.25, 0.75]])
    experts = torch.stack((torch.full((1, 32), 4.0), torch.full((1, 32), 8.0)), dim=1)
    assert torch.equal(mix(gate, experts), torch.full((1, 32), 7.0))


def test_a_tower_gives_a_logit() -> None:
    tower = filled(Tower())
    values = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.relu(values @ tower.hidden.weight.T + tower.hidden.bias)
    torch.testing.assert_close(tower(values), hidden @ tower.output.weight[0] + tower.output.bias[0])


def test_the_ratio_of_spreads_by_hand() -> None:
    mixture, skip = torch.zeros(2, 32), torch.zeros(2, 32)
    mixture[0, 0], skip[0, 0], skip[0, 1] = 2.0, 3.0, 4.0  # variances 1 against 9/4 and 4: sqrt(1 / 6.25)
    assert spread_ratio(mixture, skip).item() == pytest.approx(0.4)
    assert torch.isfinite(spread_ratio(mixture, torch.zeros(2, 32)))
    assert spread_ratio(mixture[:1], skip[:1]) is None


def test_the_published_mixture_is_almost_dead_and_a_scale_revives_it() -> None:
    """methods.md H9: 2e-4 to 1e-3 at the published setting, 0.28 to 1.4 at scale 1024."""
    ratios = {
        scale: small_network(mixture_scale=scale, num_experts=12)(images(8), images(8, seed=1)).mixture_ratio.item()
        for scale in (1.0, 1024.0)
    }
    assert 1e-5 < ratios[1.0] < 2e-3
    assert 0.1 < ratios[1024.0] < 2


def test_half_precision_stops_at_the_encoders() -> None:
    network = small_network()
    full = network(images(8), images(8, seed=1)).mixture_ratio.item()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images(8), images(8, seed=1))
    assert output.primary_logit.dtype == torch.float32
    assert output.mixture_ratio.item() == pytest.approx(full, rel=0.3)
