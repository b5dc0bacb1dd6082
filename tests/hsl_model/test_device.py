"""What a site's device does for a round: none of it may change what is trained, and what it cannot do is said."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hsl_model import device
from hsl_model.batches import PairLoader
from hsl_model.device import Forward, free_bytes, precision
from hsl_model.engine import EngineOptions, Interrupted
from hsl_model.model_state import initial_network
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.snapshot import SnapshotFolder
from tests.hsl_model.engine_helpers import (
    arm_config,
    held_tensors,
    initial_file,
    result_bytes,
    run_config,
    site_data,
    spec_of,
    train,
)

PLAIN = EngineOptions()
LAST = EngineOptions(channels_last=True)
COMPILED = EngineOptions(compiled=True, channels_last=True)
OWN = {"training": {"added_images": "own"}, "network": {"normalisation": "group"}}


def stop_at(call: int) -> Callable[[], bool]:
    calls = count()
    return lambda: next(calls) == call


def trained(config: RunConfig, folder: Path, options: EngineOptions) -> dict[str, np.ndarray]:
    name = f"{options.channels_last}-{options.compiled}"
    start = [initial_file(config, folder)]
    return held_tensors(train(spec_of(config), site_data(), start, folder / name, options=options))


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """AdamW divides by the size of the gradient, so where that is all rounding its sign is a step's whole length."""
    assert found.keys() == expected.keys()
    differences = np.concatenate([np.ravel(found[name].astype(float) - expected[name]) for name in expected])
    assert np.median(np.abs(differences)) < 1e-5
    assert np.mean(np.abs(differences) > 1e-3) < 0.01


# --- a site's images on the device ---


@pytest.mark.parametrize("config", [run_config("hsl"), run_config("swarm", **OWN)], ids=["hsl", "swarm-own"])
def test_batches_from_images_on_the_device_are_the_same_bits(config: RunConfig) -> None:
    data = site_data()
    plain = PairLoader(spec_of(config), data, "cpu")
    cached = PairLoader(spec_of(config), data, "cpu", cached=True)
    assert not plain._at_hand
    assert sum(len(held) for held in cached._at_hand.values()) == (17 if config.architecture == "mmoe" else 9)
    for epoch, step in [(0, 0), (0, 2), (1, 1)]:
        first, second = plain.batch(epoch, step), cached.batch(epoch, step)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
        if first.sat_images is not None and second.sat_images is not None:
            assert torch.equal(first.sat_images, second.sat_images)


@pytest.mark.parametrize(("free", "fits"), [(2 * 17 * 256, True), (2 * 17 * 256 - 1, False)])
def test_images_that_find_no_room_stay_where_they_are_and_the_log_says_so(
    free: int, fits: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nine images and eight of the SAT, 256 bytes each, may take half of what is free."""
    monkeypatch.setattr(device, "free_bytes", lambda _: free)
    config, data = run_config("hsl"), site_data()
    cached = PairLoader(spec_of(config), data, "cpu", cached=True)
    assert bool(cached._at_hand) == fits
    assert ("stay in main memory" in caplog.text) != fits
    assert torch.equal(cached.batch(0, 0).images, PairLoader(spec_of(config), data, "cpu").batch(0, 0).images)


def test_a_round_with_images_on_the_device_is_the_same_round_also_after_a_stop(tmp_path: Path) -> None:
    config, start = run_config("hsl"), [initial_file(run_config("hsl"), tmp_path)]
    cached = replace(PLAIN, cache_on_device=True)
    train(spec_of(config), site_data(), start, tmp_path / "plain")
    with pytest.raises(Interrupted):
        train(spec_of(config), site_data(), start, tmp_path / "cached", options=cached, should_stop=stop_at(2))
    result = train(spec_of(config), site_data(), start, tmp_path / "cached", options=PLAIN)
    assert not result.metrics.restarted, "no bit depends on where the images lie"
    assert result_bytes(tmp_path / "cached") == result_bytes(tmp_path / "plain")


def test_free_memory_of_a_shared_gpu_is_what_is_left_of_this_process_s_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 free of 100, 30 held by torch and 20 of them in use: 20, unless the share of the card is smaller."""
    share = [1.0]
    told: dict[str, Callable[[str], Any]] = {
        "mem_get_info": lambda _: (10, 100),
        "memory_reserved": lambda _: 30,
        "memory_allocated": lambda _: 20,
        "get_per_process_memory_fraction": lambda _: share[0],
    }
    for name, answer in told.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    assert free_bytes("cuda") == 20
    share[0] = 0.25
    assert free_bytes("cuda") == 5
    assert 0 < free_bytes("cpu") < 1 << 50


# --- the memory format ---


@pytest.mark.parametrize("arm", ["hsl", "fedbn-mmoe"])
def test_channels_last_trains_the_same_model(arm: str, tmp_path: Path) -> None:
    config = arm_config(arm)
    assert_close(trained(config, tmp_path, LAST), trained(config, tmp_path, PLAIN))


def test_channels_last_reaches_weights_and_images() -> None:
    network, seen = initial_network(run_config("hsl")), []
    network.register_forward_pre_hook(lambda _module, given: seen.extend(given))
    images = torch.rand(4, 3, 16, 16)[:, :1].repeat(1, 2, 1, 1)[:, :1]
    conv = network.get_submodule("primary_encoder.backbone.layer1.conv1")
    assert not conv.weight.is_contiguous(memory_format=torch.channels_last)
    Forward(network, LAST, run_config("hsl").training)(images, images)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert [one.is_contiguous(memory_format=torch.channels_last) for one in seen] == [True, True]


@pytest.mark.parametrize("arm", ["hsl", "fedprox"])
def test_a_round_in_channels_last_resumes_bit_for_bit(arm: str, tmp_path: Path) -> None:
    """A fused step reads weights and moments from front to back: both must lie in the same order again."""
    config, data = arm_config(arm), site_data()
    start = [initial_file(config, tmp_path)]
    train(spec_of(config), data, start, tmp_path / "whole", options=LAST)
    stops = iter([2, 3, 2])  # before the third step, in validation, in the second epoch
    for stop in stops:
        with pytest.raises(Interrupted):
            train(spec_of(config), data, start, tmp_path / "w", options=LAST, should_stop=stop_at(stop))
    train(spec_of(config), data, start, tmp_path / "w", options=LAST)
    assert result_bytes(tmp_path / "w") == result_bytes(tmp_path / "whole")


def test_a_snapshot_of_another_memory_format_begins_the_round_anew_and_says_so(tmp_path: Path) -> None:
    config, start = run_config("swarm"), [initial_file(run_config("swarm"), tmp_path)]
    with pytest.raises(Interrupted):
        train(spec_of(config), site_data(), start, tmp_path / "w", options=LAST, should_stop=stop_at(2))
    facts = SnapshotFolder(tmp_path / "w").read()
    assert facts is not None
    assert facts.environment["channels_last"] == "True"
    assert train(spec_of(config), site_data(), start, tmp_path / "w", options=PLAIN).metrics.restarted


# --- compiled steps ---


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """`torch.compile` up to its kernels: what it traces is run as it is. What it was asked for comes back."""
    whole, asked = torch.compile, list[object]()

    def compile_without_kernels(network: Any, **how: object) -> Any:
        asked.append(how)
        return whole(network, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_kernels)
    yield asked
    torch.compiler.reset()


def test_a_traced_network_trains_to_the_same_bits_and_resumes(traced: list[object], tmp_path: Path) -> None:
    """Also in the second round of a process, on another network object: nothing is compiled for each."""
    config, start = run_config("hsl"), [initial_file(run_config("hsl"), tmp_path)]
    options = EngineOptions(compiled=True)
    train(spec_of(config), site_data(), start, tmp_path / "plain")
    with pytest.raises(Interrupted):
        train(spec_of(config), site_data(), start, tmp_path / "w", options=options, should_stop=stop_at(2))
    train(spec_of(config), site_data(), start, tmp_path / "w", options=options)
    assert traced == [{"options": {"fallback_random": True}}] * 2
    assert result_bytes(tmp_path / "w") == result_bytes(tmp_path / "plain")


def test_where_nothing_can_be_compiled_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object) -> None:
        raise torch._dynamo.exc.InternalTorchDynamoError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: no_compiler)
    config = run_config("swarm")
    with pytest.raises(ConfigError, match="cannot compile this network here"):
        trained(config, tmp_path, COMPILED)


@pytest.mark.long
@pytest.mark.parametrize("arm", ["hsl", "fedbn-mmoe"])
def test_a_compiled_network_trains_the_same_model(arm: str, tmp_path: Path) -> None:
    config = arm_config(arm)
    assert_close(trained(config, tmp_path, COMPILED), trained(config, tmp_path, PLAIN))


# --- mixed precision ---


def test_the_cpu_trains_in_float32_and_a_gpu_without_bfloat16_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = run_config("swarm")
    network, on_gpu = initial_network(config), EngineOptions(device="cuda")
    with caplog.at_level(logging.INFO):
        Forward(network, PLAIN, config.training)
    assert [(one.levelname, "float32" in one.message) for one in caplog.records] == [("INFO", True)]
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    Forward(network, on_gpu, config.training)
    assert "Old GPU has no bfloat16" in caplog.text
    assert device.described(on_gpu, config.training) == "Old GPU, float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert precision(on_gpu, config.training) == "bfloat16"
    assert precision(on_gpu, run_config("swarm", training={"mixed_precision": False}).training) == "float32"
    assert device.described(replace(on_gpu, compiled=True), config.training) == "Old GPU, bfloat16, compiled"
