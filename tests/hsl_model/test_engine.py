import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hsl_model import engine
from hsl_model.checkpoint import TensorFile, read_tensors, sha256_file, write_tensors
from hsl_model.data import ImageSet
from hsl_model.engine import (
    DivergedError,
    EngineOptions,
    Interrupted,
    evaluate,
    initial_tensors,
    predict,
    shared_names,
    validate,
)
from hsl_model.metrics import log_loss, roc_auc
from hsl_model.model_state import all_specs, load_network
from hsl_model.optimise import learning_rate
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import CheckpointError, ConfigError
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.scoring import Scorer
from hsl_model.snapshot import EpochFacts, SnapshotFolder
from tests.hsl_model.engine_helpers import (
    ARMS,
    arm_config,
    held_tensors,
    image_set,
    initial_file,
    result_bytes,
    run_config,
    site_data,
    spec_of,
    train,
)

# --- the initial weights and the start of a round ---


def test_the_initial_weights_are_the_runs_and_hold_every_tensor(tmp_path: Path) -> None:
    config = run_config("fedbn")
    first = engine.write_initial(config, tmp_path / "a")
    second = engine.write_initial(run_config("fedbn", seed=99), tmp_path / "b")  # the training's seed is another thing
    assert first.shared.sha256 == second.shared.sha256
    assert engine.write_initial(run_config("fedbn", initial={"seed": 1}), tmp_path / "c").shared.sha256 != (
        first.shared.sha256
    )
    assert first.private is None
    assert (first.metrics.shared_epoch, first.metrics.num_steps, first.num_cases) == (0, 0, 0)
    with TensorFile(first.shared.path) as file:
        assert file.specs == all_specs(config)


def test_a_run_that_starts_from_a_file_has_no_seed_to_build_from() -> None:
    with pytest.raises(ConfigError, match="published file"):
        initial_tensors(run_config("fedavg", initial={"seed": None, "file_sha256": "a" * 64}))


def test_later_start_files_win(tmp_path: Path) -> None:
    config = run_config("fedavg")
    initial = initial_file(config, tmp_path)
    name = shared_names(config)[0].name
    original = read_tensors(initial)[name]
    changed = original + 1
    over = write_tensors(tmp_path / "over.safetensors", {name: changed}).path
    state = load_network(config, [initial, over], "cpu").state_dict()
    assert np.array_equal(state[name].numpy(), changed)
    assert np.array_equal(load_network(config, [over, initial], "cpu").state_dict()[name].numpy(), original)


def test_a_start_that_does_not_fit_the_network_is_refused(tmp_path: Path) -> None:
    config = run_config("fedavg")
    tensors = initial_tensors(config)
    name = sorted(tensors)[0]
    cases = {
        "missing": {key: value for key, value in tensors.items() if key != name},
        "no tensor stranger": tensors | {"stranger": np.zeros(1, dtype=np.float32)},
        "shape": tensors | {name: np.zeros((1, 2, 3), dtype=np.float32)},
        "type": tensors | {name: tensors[name].astype(np.float64)},
    }
    for reason, wrong in cases.items():
        path = write_tensors(tmp_path / f"{reason}.safetensors", wrong).path
        with pytest.raises(CheckpointError, match=reason):
            load_network(config, [path], "cpu")
    with pytest.raises(ConfigError, match="at least one"):
        load_network(config, [], "cpu")


def test_round_zero_is_not_trained(tmp_path: Path) -> None:
    config = run_config("fedavg")
    with pytest.raises(ConfigError, match="round 1"):
        train(spec_of(config, round_number=0), site_data(), [initial_file(config, tmp_path)], tmp_path / "w")


# --- a round ---


@pytest.mark.parametrize("arm", ARMS)
def test_a_round_changes_the_model_and_reports_what_it_did(arm: str, tmp_path: Path) -> None:
    config = arm_config(arm)
    start = [initial_file(config, tmp_path)]
    result = train(spec_of(config), site_data(), start, tmp_path / "w")
    assert result.num_cases == 9
    assert result.metrics.num_steps == 6
    assert result.metrics.shared_epoch in (1, 2)
    assert result.metrics.micro_batch_size is None
    assert not result.metrics.restarted
    assert result.metrics.training_loss is not None
    assert (result.metrics.mixture_ratio is not None) == (config.architecture == "mmoe")
    held, initial = held_tensors(result), initial_tensors(config)
    assert held.keys() == initial.keys()
    assert {name: (a.dtype, a.shape) for name, a in held.items()} == {n: (a.dtype, a.shape) for n, a in initial.items()}
    assert any(not np.array_equal(held[name], initial[name]) for name in held)
    assert result.shared.sha256 == sha256_file(result.shared.path)
    assert result.shared.num_bytes == result.shared.path.stat().st_size
    if result.shared.num_bytes:
        with TensorFile(result.shared.path) as file:
            assert file.specs == shared_names(config)
    else:
        assert shared_names(config) == ()
        assert result.shared.sha256 == hashlib.sha256(b"").hexdigest()


def test_the_shared_metrics_are_those_of_the_shared_weights(tmp_path: Path) -> None:
    config, data = run_config("hsl"), site_data()
    start = [initial_file(config, tmp_path)]
    result = train(spec_of(config), data, start, tmp_path / "w")
    found = validate(spec_of(config), data, [*start, result.shared.path], EngineOptions())
    assert (found.auc, found.loss) == (result.metrics.validation_auc, result.metrics.validation_loss)


def test_training_learns(tmp_path: Path) -> None:
    config = run_config(
        "fedavg", training={"batch_size": 16, "images_per_epoch": 64, "local_epochs": 4, "augment": False}
    )
    data = site_data(num_training=64)
    start = [initial_file(config, tmp_path)]
    result = train(spec_of(config), data, start, tmp_path / "w")
    assert result.metrics.validation_auc == 1.0


def test_the_caller_s_random_numbers_do_not_matter(tmp_path: Path) -> None:
    config, data = run_config("hsl"), site_data()
    start = [initial_file(config, tmp_path)]
    torch.manual_seed(1)
    train(spec_of(config), data, start, tmp_path / "a")
    torch.manual_seed(2)
    train(spec_of(config), data, start, tmp_path / "b")
    assert result_bytes(tmp_path / "a") == result_bytes(tmp_path / "b")


def test_dropout_differs_from_step_to_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config("hsl")
    seeds: list[int] = []
    manual_seed = torch.manual_seed
    monkeypatch.setattr(engine.torch, "manual_seed", lambda seed: seeds.append(seed) or manual_seed(seed))
    train(spec_of(config), site_data(), [initial_file(config, tmp_path)], tmp_path / "w")
    assert len(set(seeds)) == len(seeds) == 6


def test_the_optimiser_lives_through_the_epochs_of_a_round(tmp_path: Path) -> None:
    """Stopped before the last of six steps, in the second epoch, it has counted five."""
    config = run_config("fedavg")
    calls = iter([False] * 7 + [True])  # three steps, two batches of validation, two steps
    start, options = [initial_file(config, tmp_path)], EngineOptions(snapshot_every_steps=None)
    with pytest.raises(Interrupted):
        train(spec_of(config), site_data(), start, tmp_path / "w", options=options, should_stop=lambda: next(calls))
    state = read_tensors(tmp_path / "w" / "state-a.safetensors")
    assert {float(array) for name, array in state.items() if name.startswith("moments.step.")} == {5.0}


@pytest.mark.parametrize("first_round", [1, 3])
def test_the_schedule_runs_on_across_rounds(first_round: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config("fedavg")
    rates: list[float] = []
    monkeypatch.setattr(engine, "set_learning_rate", lambda _optimizer, rate: rates.append(rate))
    train(spec_of(config, round_number=first_round), site_data(), [initial_file(config, tmp_path)], tmp_path / "w")
    epochs = [2 * (first_round - 1), 2 * (first_round - 1) + 1]  # two local epochs a round
    assert rates == [learning_rate(config.training, epoch) for epoch in epochs for _step in range(3)]


@pytest.mark.parametrize("architecture", ["plain", "relative"])
def test_a_micro_batch_gradient_is_the_full_batch_gradient(architecture: str, tmp_path: Path) -> None:
    """On a network whose images do not see each other (group normalisation, no dropout)."""
    network = {"normalisation": "group", "architecture": architecture}
    config = run_config("fedprox", options={"mu": 0.1}, network=network, training={"batch_size": 8})
    full = first_step_moments(config, tmp_path, EngineOptions())
    parts = first_step_moments(config, tmp_path, EngineOptions(micro_batch_size=3))
    assert full.keys() == parts.keys()
    for name, moment in full.items():
        np.testing.assert_allclose(parts[name], moment, rtol=2e-4, atol=2e-6)


def first_step_moments(config: RunConfig, folder: Path, options: EngineOptions) -> dict[str, np.ndarray]:
    """exp_avg after one step is a tenth of the gradient."""
    workspace = folder / f"micro-{options.micro_batch_size}"
    calls = iter([False, True])
    start = [initial_file(config, folder)]
    with pytest.raises(Interrupted):
        train(spec_of(config), site_data(), start, workspace, options=options, should_stop=lambda: next(calls))
    tensors = read_tensors(workspace / "state-a.safetensors")
    return {name: array for name, array in tensors.items() if name.startswith("moments.exp_avg.")}


@pytest.mark.parametrize(("micro", "recorded"), [(2, 2), (3, 3), (4, None), (64, None)])
def test_split_batches_are_recorded(micro: int, recorded: int | None, tmp_path: Path) -> None:
    config = run_config("fedavg")
    options = EngineOptions(micro_batch_size=micro)
    result = train(spec_of(config), site_data(), [initial_file(config, tmp_path)], tmp_path / "w", options=options)
    assert result.metrics.micro_batch_size == recorded
    assert result.metrics.num_steps == 6


def test_options_that_cannot_work_are_refused() -> None:
    for wrong in ({"micro_batch_size": 1}, {"num_threads": 0}, {"snapshot_every_steps": 0}):
        with pytest.raises(ValueError, match="at least"):
            EngineOptions(**wrong)


def test_without_periodic_snapshots_only_a_stop_writes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[object] = []
    write = SnapshotFolder.write
    monkeypatch.setattr(SnapshotFolder, "write", lambda self, *given: writes.append(write(self, *given)))
    config, data, options = run_config("fedavg"), site_data(), EngineOptions(snapshot_every_steps=None)
    start = [initial_file(config, tmp_path)]
    train(spec_of(config), data, start, tmp_path / "a", options=options)
    assert writes == []
    calls = iter([False, True])
    with pytest.raises(Interrupted):
        train(spec_of(config), data, start, tmp_path / "b", options=options, should_stop=lambda: next(calls))
    assert len(writes) == 1
    train(spec_of(config), data, start, tmp_path / "b", options=options)
    assert result_bytes(tmp_path / "a") == result_bytes(tmp_path / "b")


def test_a_loss_that_is_not_finite_ends_the_round(tmp_path: Path) -> None:
    config = run_config("fedavg")
    tensors = initial_tensors(config)
    name = next(name for name in tensors if tensors[name].ndim == 4)
    tensors[name][:] = np.inf
    start = [write_tensors(tmp_path / "start.safetensors", tensors).path]
    with pytest.raises(DivergedError, match="training loss of step 1 is not finite"):
        train(spec_of(config), site_data(), start, tmp_path / "w")
    with pytest.raises(DivergedError, match="score"):
        validate(spec_of(config), site_data(), start, EngineOptions())


# --- which epoch is shared ---


def epoch(number: int, auc: float | None, loss: float | None = 0.5) -> EpochFacts:
    return EpochFacts(epoch=number, auc=auc, loss=loss, training_loss=0.5, mixture_ratio=None)


@pytest.mark.parametrize(
    ("newer", "best", "is_better"),
    [
        (epoch(1, 0.4), None, True),
        (epoch(2, 0.71), epoch(1, 0.70), True),
        (epoch(2, 0.69), epoch(1, 0.70), False),
        (epoch(2, 0.70, loss=9.0), epoch(1, 0.70, loss=0.1), True),  # ties: the later
        (epoch(2, None, loss=0.4), epoch(1, None, loss=0.5), True),  # undefined: the lower loss
        (epoch(2, None, loss=0.6), epoch(1, None, loss=0.5), False),
        (epoch(2, None, loss=None), epoch(1, None, loss=None), True),  # no validation set: the last
    ],
)
def test_the_best_epoch(newer: EpochFacts, best: EpochFacts | None, is_better: bool) -> None:
    assert engine.is_better(newer, best) is is_better


def scripted(aucs: list[float | None]) -> Callable[..., object]:
    """In place of `Scorer.metrics`: the next AUC of a list."""
    script = iter(aucs)

    def metrics(self: object, cases: ImageSet, each_batch: object = None) -> ValidationMetrics:
        auc = next(script)
        return ValidationMetrics(auc=auc, loss=0.5, num_cases=len(cases))

    return metrics


@pytest.mark.parametrize(("share_epoch", "shared"), [("best", 2), ("last", 3)])
def test_the_best_or_the_last_epoch_is_shared(
    share_epoch: str, shared: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = run_config("fedavg", training={"local_epochs": 3, "share_epoch": share_epoch})
    start = [initial_file(long, tmp_path)]
    monkeypatch.setattr(Scorer, "metrics", scripted([0.6, 0.8, 0.7]))
    result = train(spec_of(long), site_data(), start, tmp_path / "long")
    assert result.metrics.shared_epoch == shared
    assert result.metrics.num_steps == 9
    # the weights are those at the end of that epoch: training just so long gives them
    short = run_config("fedavg", training={"local_epochs": shared, "share_epoch": "last"})
    monkeypatch.setattr(Scorer, "metrics", scripted([0.5] * shared))
    expected = train(spec_of(short), site_data(), start, tmp_path / "short")
    assert result.shared.sha256 == expected.shared.sha256


def test_a_validation_set_of_one_class_has_no_auc_and_the_loss_decides(tmp_path: Path) -> None:
    one_class = image_set(8, 5, positive_share=0.0)
    data = replace(site_data(), validation=one_class)
    config = run_config("fedavg", training={"local_epochs": 3})
    start = [initial_file(config, tmp_path)]
    result = train(spec_of(config), data, start, tmp_path / "w")
    assert result.metrics.validation_auc is None
    losses = []
    for local_epochs in (1, 2, 3):
        shorter = run_config("fedavg", training={"local_epochs": local_epochs, "share_epoch": "last"})
        done = train(spec_of(shorter), data, start, tmp_path / str(local_epochs))
        losses.append(done.metrics.validation_loss)
    assert result.metrics.validation_loss == min(losses)
    assert result.metrics.shared_epoch == losses.index(min(losses)) + 1


# --- scoring ---


def test_every_image_is_scored_once_in_order(tmp_path: Path) -> None:
    config, data = run_config("hsl"), site_data()
    start = [initial_file(config, tmp_path)]
    probabilities = predict(config, data.test.images, start, data.sat, EngineOptions())
    assert probabilities.shape == (6,)
    logits = np.log(probabilities / (1 - probabilities))
    found = evaluate(spec_of(config), data, start, EngineOptions(), "test")
    assert found.num_cases == 6
    assert found.auc == roc_auc(probabilities, data.test.labels)
    assert found.loss == pytest.approx(log_loss(logits, data.test.labels), rel=1e-4)
    assert validate(spec_of(config), data, start, EngineOptions()).num_cases == 8
    assert not found.one_answer


def test_a_model_that_gives_every_image_one_answer_says_so(tmp_path: Path) -> None:
    config, data = run_config("swarm"), site_data()
    dead = {name: np.zeros_like(tensor) for name, tensor in read_tensors(initial_file(config, tmp_path)).items()}
    start = [write_tensors(tmp_path / "dead.safetensors", dead).path]
    found = validate(spec_of(config), data, start, EngineOptions())
    assert (found.auc, found.one_answer) == (0.5, True)


def test_images_are_scored_as_they_are_stored(tmp_path: Path) -> None:
    """Normalised, not augmented, in evaluation."""
    config, data = run_config("swarm"), site_data()
    start = [train(spec_of(config), data, [initial_file(config, tmp_path)], tmp_path / "w").shared.path]
    network = load_network(config, start, "cpu").eval()
    stored = (torch.from_numpy(data.test.images).float() / 255 - 0.449) / 0.226
    with torch.inference_mode():
        expected = torch.sigmoid(network(stored, None).primary_logit).numpy()
    np.testing.assert_allclose(predict(config, data.test.images, start, None, EngineOptions()), expected, rtol=1e-5)


@pytest.mark.parametrize("arm", ["hsl", "hsl-no-sat", "fedavg", "swarm-relative"])
def test_an_image_s_score_does_not_depend_on_the_images_beside_it(arm: str, tmp_path: Path) -> None:
    config, data = arm_config(arm), site_data()
    start = [train(spec_of(config), data, [initial_file(config, tmp_path)], tmp_path / "w").shared.path]
    together = predict(config, data.test.images, start, data.sat, EngineOptions())
    alone = [predict(config, image[None], start, data.sat, EngineOptions())[0] for image in data.test.images]
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    assert len(set(together.tolist())) > 1


@pytest.mark.parametrize("arm", ["hsl", "swarm-relative"])
def test_prediction_beside_anchors_needs_the_shared_anchor_task(arm: str, tmp_path: Path) -> None:
    config, data = arm_config(arm), site_data()
    with pytest.raises(ConfigError, match="SAT bundle"):
        predict(config, data.test.images, [initial_file(config, tmp_path)], None, EngineOptions())


def test_an_empty_validation_set_has_no_metrics(tmp_path: Path) -> None:
    config = run_config("fedavg")
    data = replace(site_data(), validation=image_set(0, 1))
    result = train(spec_of(config), data, [initial_file(config, tmp_path)], tmp_path / "w")
    assert (result.metrics.validation_auc, result.metrics.validation_loss) == (None, None)
    assert result.metrics.shared_epoch == 2
