import pytest
from pydantic import ValidationError

from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.methods import METHODS, Choice, Number

TASK = {"task_id": "fracture", "positive_class": "fractured", "negative_class": "intact", "modality": "radiograph"}

SWARM = {"method": {"name": "swarm"}}
RELATIVE = {"architecture": "relative", "normalisation": "group"}


def config(**changes: object) -> RunConfig:
    return RunConfig.model_validate(
        {"name": "trial", "task": TASK, "nodes": ["b", "a"], "sat_digest": "a" * 64, **changes}
    )


def test_the_defaults_are_the_published_method() -> None:
    run = config()
    assert run.method.name == "hsl"
    assert run.method.options == {"sat_weight": 0.5, "use_sat": True}
    assert run.architecture == "mmoe"
    assert (run.network.temperature, run.network.num_experts, run.network.embedding) == (3.0, 12, "softmax")
    assert (run.training.local_epochs, run.training.learning_rate, run.training.weight_decay) == (5, 1e-3, 1e-4)
    assert (run.convergence.patience, run.convergence.min_improvement, run.convergence.min_rounds) == (3, 0.005, 6)
    assert run.nodes == ("a", "b")


def test_a_config_survives_json() -> None:
    run = config(method={"name": "fedprox", "options": {"mu": 0.1}}, seed=2**62)
    assert RunConfig.model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epochs": 5}, "epochs"),
        ({"training": {"batchsize": 4}}, "training.batchsize"),
        ({"nodes": ["a", "a"]}, "named twice"),
        ({"nodes": ["../a", "b"]}, "nodes"),
        ({"method": {"name": "fedsgd"}}, "unknown method 'fedsgd'; choose one of"),
        ({"method": {"name": "hsl", "options": {"mu": 1}}}, "has no option mu; its options: sat_weight, use_sat"),
        ({"method": {"name": "fedprox", "options": {"mu": -1}}}, "'mu' of method 'fedprox': -1 is outside"),
        ({"method": {"name": "fedprox", "options": {"mu": True}}}, "expected a number"),
        ({"method": {"name": "hsl", "options": {"use_sat": 1}}}, "not one of True, False"),
        ({"quorum": {"min_nodes": 3}}, "only 2 nodes are named"),
        ({"quorum": {"required_nodes": ["c"]}}, "required_nodes not among nodes: c"),
        ({"sat_digest": None}, "needs a shared anchor task"),
        ({"network": {"architecture": "plain"}}, "use method swarm with trunk or plain"),
        ({**SWARM, "training": {"added_images": "sat"}}, "only where they are: set sat_task_id to fracture"),
        ({**SWARM, "training": {"added_images": "sat"}, "sat_task_id": "lesion"}, "set sat_task_id to fracture"),
        ({**SWARM, "training": {"added_images": "sat"}, "sat_task_id": "fracture"}, "normalisation to group"),
        ({**SWARM, "training": {"added_images": "sat"}, "sat_digest": None}, "added_images needs a shared anchor"),
        ({"training": {"added_images": "own"}}, "leave training.added_images at none"),
        ({**SWARM, "network": RELATIVE | {"normalisation": "batch"}}, "set network.normalisation to group"),
        ({**SWARM, "network": RELATIVE, "sat_digest": None}, "the relative network needs a shared anchor task: give"),
        ({**SWARM, "network": RELATIVE, "training": {"added_images": "own"}}, "relative network has an input for"),
        ({"network": RELATIVE}, "method hsl needs network.architecture mmoe"),
        ({"training": {"photometric": 3}}, "photometric"),
        ({"training": {"intensity": "equalized"}}, "'given', 'equalised' or 'anchors'"),
        ({**SWARM, "training": {"intensity": "anchors"}, "sat_digest": None}, "intensity anchors needs a shared"),
        ({"initial": {"seed": None}}, "exactly one of seed and file_sha256"),
        ({"task": {**TASK, "negative_class": "fractured"}}, "must differ"),
        ({"training": {"learning_rate": float("nan")}}, "learning_rate"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**changes)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_configured_by_its_name_alone(name: str) -> None:
    run = config(method={"name": name})
    assert set(run.method.options) == set(METHODS[name].options)


def test_option_rules_accept_their_own_defaults() -> None:
    for facts in METHODS.values():
        for rule in facts.options.values():
            assert isinstance(rule, Number | Choice)
            assert rule.check(rule.default) == rule.default
