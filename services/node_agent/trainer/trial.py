"""One real training batch on made-up images: what `hsl node check` measures, by the engine that trains the rounds.

Two steps of the run's own network, image size and batch size; the second is timed, the first has to wake things up.
Runs in the training child.
"""

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import train_round, write_initial
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import InitialWeights, RunConfig
from hsl_model.round_work import EngineOptions, RoundSpec

NUM_STEPS = 2


@dataclass(frozen=True)
class TrialFacts:
    batch_s: float
    peak_bytes: int  # of the whole child, or of the GPU
    model_bytes: int
    device_name: str


def try_batch(
    config: RunConfig, options: EngineOptions, folder: Path, clock: Clock, progress: Callable[[int, int], None]
) -> TrialFacts:
    """Leaves files in `folder`. Raises what training raises: no memory, no such device."""
    config = _shortened(config)
    ended_s: list[float] = []

    def step_ended(done: int, total: int) -> None:
        ended_s.append(clock.monotonic())
        progress(done, total)

    start = write_initial(config, folder / "start").shared
    train_round(
        RoundSpec(run_id="check", node_id="check", round_number=1, config=config),
        _noise(config),
        (start.path,),
        folder / "round",
        options,
        should_stop=lambda: False,
        progress=step_ended,
    )
    on_gpu = torch.device(options.device).type == "cuda"
    return TrialFacts(
        batch_s=ended_s[-1] - ended_s[-2],
        peak_bytes=torch.cuda.max_memory_reserved() if on_gpu else _resident_bytes(),
        model_bytes=start.num_bytes,
        device_name=torch.cuda.get_device_name(options.device) if on_gpu else _threads(options.num_threads),
    )


def _shortened(config: RunConfig) -> RunConfig:
    """Two steps of one epoch. The weights are built here, whatever file the run starts from."""
    images = NUM_STEPS * config.training.batch_size
    steps = {"images_per_epoch": images, "local_epochs": 1, "fuse_every_steps": None}
    training = config.training.model_copy(update=steps)
    return config.model_copy(update={"training": training, "initial": InitialWeights()})


def _noise(config: RunConfig) -> SiteData:
    """As many cases as two batches take, so that reading them costs what it will cost."""
    few = config.training.num_anchors
    sat = _cases(config, max(config.training.batch_size, 2 * few)) if config.uses_sat else None
    training = _cases(config, NUM_STEPS * config.training.batch_size)
    return SiteData(training=training, validation=_cases(config, 2), test=_cases(config, 2), sat=sat)


def _cases(config: RunConfig, num_cases: int) -> ImageSet:
    task = config.task
    draw = np.random.default_rng(config.seed)
    images = draw.integers(0, 256, (num_cases, task.channels, task.height, task.width), dtype=np.uint8)
    return ImageSet(images, (np.arange(num_cases) % 2).astype(np.uint8))


def _threads(num_threads: int) -> str:
    return "one thread of the CPU" if num_threads == 1 else f"{num_threads} threads of the CPU"


def _resident_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
