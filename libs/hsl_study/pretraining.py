"""A run started from training on the SAT: the engine first trains one network on the SAT alone.

    initial weights of the cell's seed -> `num_rounds` rounds at one node whose primary images are the SAT
      -> the encoder's parameters into those initial weights; everything else stays as the seed made it
      -> initial.safetensors, round 0 of the run

It learns from the SAT's labels, and then a tenth of the SAT only monitors (methods.md H14); or from no label, but from
two views of each image (views.py). The tower is new, and so are running statistics: SAT images never touch those with
which primary images are scored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from hsl_model.checkpoint import read_tensors, write_tensors
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions, initial_tensors
from hsl_model.network import build_network
from hsl_model.protocol.config import ConvergenceConfig, InitialWeights, MethodConfig, QuorumConfig, RunConfig
from hsl_model.seeding import generator
from hsl_study.federation import TrainUntil, held_files, never, run_federation, train_apart
from hsl_study.views import train_views, unlabelled, views_run

LearnsFrom = Literal["labels", "views"]
NODE = "public"
_ENCODER = "primary_encoder."


def initial_file(folder: Path) -> Path:
    """Where a cell's folder holds what its run starts from, if that is no seed."""
    return folder / "initial.safetensors"


def started_from_sat(
    config: RunConfig,
    sat: ImageSet,
    num_rounds: int,
    folder: Path,
    options: EngineOptions,
    learns_from: LearnsFrom = "labels",
    should_stop: Callable[[], bool] = never,
) -> RunConfig:
    """The run that starts from `initial_file(folder)`, which is trained here, or was. Raises what the engine raises."""
    before, site, train = prepared(pretraining(config, num_rounds), sat, learns_from)
    work = folder / "pretraining"
    rounds = run_federation(before, {NODE: site}, work, options, train=partial(train, should_stop=should_stop))
    trained = read_tensors(held_files(work, NODE, len(rounds) - 1)[-1])
    tensors = initial_tensors(config) | {name: trained[name] for name in _encoder_parameters(config)}
    file = write_tensors(initial_file(folder), tensors)
    return config.model_copy(update={"initial": InitialWeights(seed=None, file_sha256=file.sha256)})


def prepared(before: RunConfig, sat: ImageSet, learns_from: LearnsFrom) -> tuple[RunConfig, SiteData, TrainUntil]:
    """The run before the run, its one node's data, and how that node trains."""
    if learns_from == "views":
        return views_run(before, len(sat)), unlabelled(sat), train_views
    return before, monitored(sat, before), train_apart


def pretraining(config: RunConfig, num_rounds: int) -> RunConfig:
    """The run before the run: one node, the same network, training and seed, no second task."""
    same_encoder = {"mmoe": "trunk", "relative": "plain"}  # and one input
    architecture = same_encoder.get(config.architecture, config.architecture)
    changes = {
        "nodes": (NODE,),
        "method": MethodConfig(name="swarm"),
        "network": config.network.model_copy(update={"architecture": architecture}),
        "training": config.training.model_copy(update={"added_images": "none", "fixed_head": False}),
        "num_rounds": num_rounds,
        "convergence": ConvergenceConfig(enabled=False),
        "quorum": QuorumConfig(min_nodes=1),
        "sat_digest": config.sat_digest if config.training.intensity == "anchors" else None,
    }
    return RunConfig.model_validate(config.model_copy(update=changes).model_dump())


def monitored(sat: ImageSet, run: RunConfig) -> SiteData:
    """The SAT as one site's images. A tenth of either class, at least one image, is validated on."""
    held_out: list[npt.NDArray[np.intp]] = []
    for label in (0, 1):
        of_class = generator(run.seed, "SAT monitor", label).permutation(np.flatnonzero(sat.labels == label))
        held_out.append(of_class[: max(1, len(of_class) // 10)])
    validation = np.sort(np.concatenate(held_out))
    training = np.setdiff1d(np.arange(len(sat)), validation)
    parts = [ImageSet(sat.images[where], sat.labels[where]) for where in (training, validation)]
    return SiteData(parts[0], parts[1], parts[1], sat if run.uses_sat else None)


def _encoder_parameters(config: RunConfig) -> Sequence[str]:
    with torch.device("meta"):
        network = build_network(config.network, config.architecture, config.task.channels, config.training.num_anchors)
    return [name for name, _ in network.named_parameters() if name.startswith(_ENCODER)]
