"""A round in progress: all that changes while it trains, and its way into a snapshot and back."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from hsl_model.device import is_gpu, precision
from hsl_model.methods.base import LocalRun
from hsl_model.model_state import Arrays, array_of, copy_tensors
from hsl_model.optimise import load_moments, read_moments
from hsl_model.protocol.config import TrainingConfig
from hsl_model.round_work import EngineOptions
from hsl_model.snapshot import EpochFacts, Position


@dataclass
class TrainingState:
    run: LocalRun
    optimizer: torch.optim.Optimizer
    at: Position = field(default_factory=Position)
    best: EpochFacts | None = None
    best_tensors: Arrays = field(default_factory=dict)

    def keep(self, epoch: EpochFacts) -> None:
        """Remember the network as it is now as the one to share."""
        self.best, self.best_tensors = epoch, copy_tensors(self.run.network)

    def pack(self) -> Arrays:
        """Network, moments and method memory as `network.<tensor>`, `moments.<moment>.<tensor>`, `memory.<name>`."""
        packed = {f"network.{name}": array_of(tensor) for name, tensor in self.run.network.state_dict().items()}
        packed |= {f"moments.{name}": a for name, a in read_moments(self.optimizer, self.run.network).items()}
        return packed | {f"memory.{name}": array_of(tensor) for name, tensor in self.run.memory.items()}

    def unpack(self, packed: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]) -> None:
        parts: dict[str, Arrays] = {"network": {}, "moments": {}, "memory": {}}
        for name, array in packed.items():
            part, _, own_name = name.partition(".")
            parts[part][own_name] = array
        network = self.run.network
        network.load_state_dict({name: torch.tensor(array) for name, array in parts["network"].items()})
        load_moments(self.optimizer, network, parts["moments"])
        device = next(network.parameters()).device
        self.run.memory = {name: torch.tensor(array).to(device) for name, array in parts["memory"].items()}


def environment(options: EngineOptions, settings: TrainingConfig) -> dict[str, str]:
    """What must be equal for a resume to be exact. What is off by default stands here only where it is on."""
    on_gpu = is_gpu(options.device)
    chosen = {
        "precision": precision(options, settings) if on_gpu else None,
        "channels_last": options.channels_last,
        "compiled": options.compiled,
    }
    return {name: str(value) for name, value in chosen.items() if value} | {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(options.device) if on_gpu else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "num_threads": str(options.num_threads),
        "batch_size": str(settings.batch_size),
        "micro_batch_size": str(options.micro_batch_size),
    }
