"""What a site's device can do, and how a step uses it: precision, memory format, compiled kernels, images at hand.

Each of these changes speed and the last bits, never what is trained. Where a device cannot do what was asked for, or a
site's images find no room on it, a line of the log says so.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

from hsl_model.data import ImageSet
from hsl_model.network import Network, NetworkOutput
from hsl_model.protocol.config import TrainingConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.round_work import EngineOptions

IMAGES_SHARE = 0.5
"""Of the free memory, for a site's images: how much the activations need is known only when a step has been made, and
a step that finds no memory ends the round."""
_COPIED_AT_ONCE = 1024  # images: a memory-mapped set never lies in main memory as a whole
logger = logging.getLogger(__name__)


def is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def precision(options: EngineOptions, settings: TrainingConfig) -> Literal["bfloat16", "float32"]:
    """bfloat16 on a GPU that has it: no loss scale, so no scaler state to carry. float32 elsewhere."""
    on_gpu = is_gpu(options.device) and settings.mixed_precision
    return "bfloat16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


def described(options: EngineOptions, settings: TrainingConfig) -> str:
    """Where and how a run is trained, in words: `NVIDIA H100, bfloat16, channels last`."""
    name = torch.cuda.get_device_name(options.device) if is_gpu(options.device) else options.device
    chosen = {"channels last": options.channels_last, "compiled": options.compiled}
    return ", ".join([name, precision(options, settings), *(word for word, is_on in chosen.items() if is_on)])


class Forward:
    """The network's pass in training, as a site's options want it. Scoring is float32 and plain everywhere."""

    def __init__(self, network: Network, options: EngineOptions, settings: TrainingConfig) -> None:
        """Brings the network's weights into the memory format that its passes will have."""
        self._network: Callable[[Tensor, Tensor | None], NetworkOutput] = network
        self._options = options
        if options.channels_last:
            network.to(memory_format=torch.channels_last)
        if options.compiled:
            self._network = compiled(network)
        self._precision = precision(options, settings)
        if settings.mixed_precision and self._precision == "float32":
            _say_float32(options.device)

    def __call__(self, primary: Tensor, sat: Tensor | None) -> NetworkOutput:
        """(B, C, H, W) float32 normalised. Raises `ConfigError` where the network cannot be compiled."""
        if self._options.channels_last:
            primary = primary.contiguous(memory_format=torch.channels_last)
            sat = sat if sat is None else sat.contiguous(memory_format=torch.channels_last)
        if not self._options.compiled:
            with self._autocast():
                return self._network(primary, sat)
        from torch._dynamo.exc import TorchDynamoException

        try:
            with self._autocast():
                return self._network(primary, sat)
        except TorchDynamoException as error:
            logger.exception("torch.compile failed")
            reason = f"torch cannot compile this network here ({type(error).__name__}); train without compiling it"
            raise ConfigError(reason=reason) from error

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda", dtype=torch.bfloat16) if self._precision == "bfloat16" else nullcontext()


def compiled(network: Network) -> Callable[[Tensor, Tensor | None], NetworkOutput]:
    """The same weights behind kernels of their own. Dropout draws what it would draw without. A network that would
    have to be compiled for ever new shapes is an error: torch would else go on uncompiled and say nothing."""
    from torch._dynamo import config

    config.fail_on_recompile_limit_hit = True
    made: Callable[[Tensor, Tensor | None], NetworkOutput] = torch.compile(network, options={"fallback_random": True})
    return made


def _say_float32(device: str) -> None:
    if is_gpu(device):
        logger.warning(
            "mixed precision was asked for, but %s has no bfloat16: float32", torch.cuda.get_device_name(device)
        )
    else:
        logger.info("mixed precision is for GPUs: the CPU trains in float32")


# --- memory ---


def take_share(device: str, share: float) -> None:
    """Let this process have so much of a GPU's memory, for others train on it too. It is told by an error where it
    would need more, in place of taking it from them."""
    torch.cuda.set_per_process_memory_fraction(share, device)


def free_bytes(device: str) -> int:
    """What this process may still take on the device."""
    if not is_gpu(device):
        told = "SC_AVPHYS_PAGES" in os.sysconf_names  # macOS keeps it to itself
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if told else 0
    free, total = torch.cuda.mem_get_info(device)
    held, in_use = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    share = torch.cuda.get_per_process_memory_fraction(device)
    return min(free + held - in_use, int(share * total) - in_use)


def images_on_device(sets: Sequence[ImageSet], device: str) -> dict[int, Tensor]:
    """By `id` of the set, its images (N, C, H, W) uint8 on the device: all sets, or none where they have no room."""
    wanted = {id(cases): cases for cases in sets}
    needed, free = sum(cases.images.nbytes for cases in wanted.values()), free_bytes(device)
    if needed > IMAGES_SHARE * free:
        logger.warning(
            "%.1f MB of images stay in main memory: %s has %.1f MB free, and %.0f %% of that is for training itself",
            needed / 1e6, device, free / 1e6, 100 * (1 - IMAGES_SHARE),
        )  # fmt: skip
        return {}
    return {key: _moved(cases, device) for key, cases in wanted.items()}


def _moved(cases: ImageSet, device: str) -> Tensor:
    held = torch.empty(cases.images.shape, dtype=torch.uint8, device=device)
    for first in range(0, len(cases), _COPIED_AT_ONCE):
        where = slice(first, first + _COPIED_AT_ONCE)
        held[where] = torch.tensor(cases.images[where])
    return held
