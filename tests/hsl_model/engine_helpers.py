"""A run small enough to be trained a hundred times: 16 x 16 pixels, the narrow encoder, six steps a round."""

from pathlib import Path
from typing import Any

import numpy as np

from hsl_model.checkpoint import read_tensors
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions, RoundResult, RoundSpec, train_round, write_initial
from hsl_model.protocol.config import MethodConfig, NetworkConfig, RunConfig, TaskConfig, TrainingConfig
from hsl_model.protocol.methods import METHODS

SIZE = 16
NODE = "clinic-a"
ARMS: dict[str, dict[str, Any]] = {name: {} for name in METHODS} | {
    "hsl-no-sat": {"options": {"use_sat": False}},
    "swarm-trunk": {"network": {"architecture": "trunk"}},
    "personalised-mmoe": {"network": {"architecture": "mmoe"}},
    "fedprox": {"options": {"mu": 0.1}},
    "swarm-relative": {"network": {"architecture": "relative", "normalisation": "group"}},
    "swarm-fixed-head": {"training": {"fixed_head": True}},
    "fedbn-mmoe": {"network": {"architecture": "mmoe", "encoders": "shared"}},
    "styled": {"options": {"consist": "anchors", "restyle_own": False}, "network": {"normalisation": "group"}},
    "styled-own": {"options": {"consist": "own", "restyle_own": False}, "network": {"normalisation": "group"}},
}
"""Every method of the registry, and the ablations that are configuration."""


def run_config(
    method: str = "fedavg",
    *,
    options: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    **changes: Any,
) -> RunConfig:
    settings: dict[str, Any] = {
        "name": "tiny",
        "nodes": (NODE, "clinic-b"),
        "task": TaskConfig(
            task_id="fracture",
            positive_class="fracture",
            negative_class="intact",
            modality="radiograph",
            height=SIZE,
            width=SIZE,
        ),
        "method": MethodConfig(name=method, options=options or {}),
        "network": NetworkConfig.model_validate({"encoder": "resnet_small", "num_experts": 3} | (network or {})),
        "training": TrainingConfig.model_validate(
            {"batch_size": 4, "local_epochs": 2, "images_per_epoch": 10, "num_anchors": 4} | (training or {})
        ),
        "sat_digest": "0" * 64,
        "seed": 7,
    }
    return RunConfig.model_validate(settings | changes)


def arm_config(arm: str, **changes: Any) -> RunConfig:
    return run_config(arm.split("-", maxsplit=1)[0], **ARMS[arm], **changes)


def image_set(num_cases: int, seed: int, positive_share: float = 0.5, size: int = SIZE) -> ImageSet:
    """Noise with a brighter middle in positive cases, so that there is something to learn."""
    random = np.random.default_rng(seed)
    labels = np.zeros(num_cases, dtype=np.uint8)
    labels[: round(num_cases * positive_share)] = 1
    random.shuffle(labels)
    images = random.integers(0, 120, (num_cases, 1, size, size), dtype=np.uint8)
    images[:, :, 4:12, 4:12] += (labels * 90)[:, None, None, None].astype(np.uint8)
    return ImageSet(images, labels)


def site_data(seed: int = 1, num_training: int = 9, positive_share: float = 0.4) -> SiteData:
    return SiteData(
        training=image_set(num_training, seed, positive_share),
        validation=image_set(8, seed + 1000),
        test=image_set(6, seed + 2000),
        sat=image_set(8, 99),
    )


def spec_of(config: RunConfig, round_number: int = 1, node_id: str = NODE) -> RoundSpec:
    return RoundSpec(run_id="run-tiny", node_id=node_id, round_number=round_number, config=config)


def initial_file(config: RunConfig, folder: Path) -> Path:
    return write_initial(config, folder / "initial").shared.path


def train(
    spec: RoundSpec,
    data: SiteData,
    start: list[Path],
    workspace: Path,
    *,
    options: EngineOptions | None = None,
    should_stop: Any = lambda: False,
    progress: Any = lambda done, total: None,
) -> RoundResult:
    chosen = options or EngineOptions()
    return train_round(spec, data, start, workspace, chosen, should_stop=should_stop, progress=progress)


def result_bytes(workspace: Path) -> dict[str, bytes]:
    """Every byte that a round leaves behind."""
    return {path.name: path.read_bytes() for path in sorted(workspace.iterdir())}


def held_tensors(result: RoundResult) -> dict[str, np.ndarray]:
    """The node's whole model after a round, before fusion."""
    tensors = {} if result.shared.num_bytes == 0 else read_tensors(result.shared.path)
    return tensors | ({} if result.private is None else read_tensors(result.private.path))
