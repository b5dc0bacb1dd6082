"""Between a network and its tensor files: the initial weights, the overlay a round starts from, what a node shares."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hsl_model.averaging import FusedFacts
from hsl_model.checkpoint import check_specs, read_tensors, spec_of, write_tensors
from hsl_model.methods import load
from hsl_model.network import Network, build_network, initialise
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import CheckpointError, ConfigError
from hsl_model.protocol.manifest import TensorSpec, UpdateMetrics
from hsl_model.protocol.messages import FusionPlan
from hsl_model.round_work import RoundResult, RoundSpec

Arrays = dict[str, npt.NDArray[np.generic]]
_WORDS = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8"}


def initial_network(config: RunConfig) -> Network:
    """The run's network on CPU with its initial weights, from the run's seed alone."""
    if config.initial.seed is None:
        raise ConfigError(reason="this run starts from a published file (initial.file_sha256), not from a seed")
    network: Network = _shape_only(config).to_empty(device="cpu")
    initialise(network, config.initial.seed)
    return network


def load_network(config: RunConfig, start: Sequence[Path], device: str) -> Network:
    """The network with the tensor files `start` laid over one another; later files win.

    Raises `CheckpointError` for a tensor that is missing, unknown, or of another shape or dtype.
    """
    if not start:
        raise ConfigError(reason="a network needs at least one tensor file to start from")
    network = _shape_only(config)
    expected = specs_of(network)
    names = {spec.name for spec in expected}
    tensors: Arrays = {}
    for path in start:
        found = read_tensors(path)
        if strangers := sorted(set(found) - names):
            raise CheckpointError(path=str(path), reason=f"this network has no tensor {strangers[0]}")
        tensors.update(found)
    check_specs([spec_of(name, array, start[-1]) for name, array in tensors.items()], expected, start[-1])
    network.load_state_dict({name: torch.tensor(array, device=device) for name, array in tensors.items()}, assign=True)
    return network


def array_of(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """A view where the tensor lies in main memory."""
    array: npt.NDArray[np.generic] = tensor.detach().cpu().numpy()
    return array


def copy_tensors(network: Network) -> Arrays:
    """The whole state as numpy arrays of its own, unchanged by further training."""
    return {name: array_of(tensor).copy() for name, tensor in network.state_dict().items()}


def specs_of(network: Network) -> tuple[TensorSpec, ...]:
    """Name, dtype and shape of every tensor, sorted by name."""
    state = network.state_dict()
    return tuple(
        TensorSpec(name=name, dtype=_WORDS[state[name].dtype], shape=tuple(state[name].shape)) for name in sorted(state)
    )


def all_specs(config: RunConfig) -> tuple[TensorSpec, ...]:
    """What round 0 publishes: the whole network."""
    return specs_of(_shape_only(config))


def shared_names(config: RunConfig) -> tuple[TensorSpec, ...]:
    """What a node of this run publishes from round 1 on; empty for a method that shares nothing."""
    network = _shape_only(config)
    shared = load(config.method.name, config.method.options).shared_keys(network)
    return tuple(spec for spec in specs_of(network) if spec.name in shared)


def initial_tensors(config: RunConfig) -> Arrays:
    """The full state of the run's initial weights: the same bits on every node."""
    return copy_tensors(initial_network(config))


def write_initial(config: RunConfig, folder: Path) -> RoundResult:
    """Round 0's update: all tensors, whatever the method shares later (design: the initial weights are the run's)."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = write_tensors(folder / "shared.safetensors", initial_tensors(config))
    metrics = UpdateMetrics(validation_auc=None, shared_epoch=0, num_steps=0)
    return RoundResult(shared=shared, private=None, metrics=metrics, num_cases=0)


def fuse_own(spec: RoundSpec, plan: FusionPlan, files: Mapping[str, Path], output: Path) -> FusedFacts:
    """The model this node holds after fusion, as its method says; for common methods the plan's average.

    `files` maps the plan's nodes to their verified updates; a node that is not in the plan may add its own.
    """
    if missing := sorted({entry.node_id for entry in plan.entries} - set(files)):
        raise ConfigError(reason=f"the fusion plan names updates that are not here: {', '.join(missing)}")
    return load(spec.config.method.name, spec.config.method.options).fuse(spec.node_id, plan, files, output)


def _shape_only(config: RunConfig) -> Network:
    """The network without memory for its weights: names, shapes and module types at almost no cost."""
    with torch.device("meta"):
        return build_network(config.network, config.architecture, config.task.channels, config.training.num_anchors)
