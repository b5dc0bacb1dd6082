"""What a round of training is told and what it hands back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hsl_model.checkpoint import FileFacts
from hsl_model.protocol.config import NodeId, RunConfig
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import SiteStyle, UpdateMetrics


@dataclass(frozen=True)
class RoundSpec:
    """`styles`: what the manifests of the round before told, for methods that share them."""

    run_id: str
    node_id: str
    round_number: int
    config: RunConfig
    styles: Mapping[NodeId, SiteStyle] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, str, int]:
        """What every random stream of this round starts with. Not the run id: equal seeds give equal results."""
        return (self.config.seed, self.node_id, self.round_number)


@dataclass(frozen=True)
class EngineOptions:
    """What a site may choose for itself. It changes speed and the last bits, never what is trained."""

    device: str = "cpu"
    num_threads: int = 1
    snapshot_every_steps: int | None = 50  # None: only when stopped, for simulations that rather repeat a round
    micro_batch_size: int | None = None
    channels_last: bool = False  # all channels of a pixel side by side, as tensor cores read them
    compiled: bool = False  # torch.compile: a minute or more before the first step of a process
    cache_on_device: bool = False  # a site's uint8 images on the device while it trains, where they fit

    def __post_init__(self) -> None:
        if self.num_threads < 1 or (self.snapshot_every_steps is not None and self.snapshot_every_steps < 1):
            raise ValueError("num_threads and snapshot_every_steps must be at least 1")
        if self.micro_batch_size is not None and self.micro_batch_size < 2:
            raise ValueError("micro_batch_size must be at least 2: batch normalisation cannot train on one image")


class Interrupted(Exception):  # noqa: N818 - not an error: a snapshot lies ready
    """`should_stop()` turned true; a snapshot has been written and the same call continues from it."""


class DivergedError(HslError):
    """Training must not hand out a model that has blown up."""

    code = "training_diverged"
    http_status = 422
    title = "Training diverged"
    template = "{what} is not finite. Lower training.learning_rate, or look for broken images in the truth report."


@dataclass(frozen=True)
class RoundResult:
    """`shared` is what the node publishes; `private` what it keeps for its own next round (None: nothing).

    A method that shares nothing has an empty file (no bytes) as `shared`.
    """

    shared: FileFacts
    private: FileFacts | None
    metrics: UpdateMetrics
    num_cases: int
