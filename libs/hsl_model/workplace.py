"""Where a round is trained: all that the loop (`engine.py`) asks of it.

`OneSite` is a node's own, in the daemon as in the simulation. A simulation may also train several sites' networks at
once (`hsl_study/split_average.py`), in the same loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hsl_model.batches import Batch, PairLoader
from hsl_model.data import SiteData
from hsl_model.model_state import load_network
from hsl_model.network import Network
from hsl_model.protocol.manifest import SiteStyle
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.protocol.methods import method_facts
from hsl_model.results import work_identity
from hsl_model.round_work import EngineOptions, RoundSpec
from hsl_model.scoring import Scorer
from hsl_model.style import style_of


class Batches(Protocol):
    """Every step's batch, at any time and in any order."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch_of_run(self, epoch: int, step: int) -> int:
        """Local epochs of all rounds so far: where the learning rate stands."""

    def batch(self, epoch: int, step: int) -> Batch: ...


class Workplace(Protocol):
    @property
    def spec(self) -> RoundSpec: ...

    @property
    def num_cases(self) -> int: ...

    def identity(self) -> str:
        """Digest of everything that decides the result."""

    def style(self) -> SiteStyle | None:
        """What the manifest tells of the acquisition; None where the method shares no styles."""

    def network(self) -> Network:
        """As the round begins, on the device it is trained on."""

    def batches(self) -> Batches: ...

    def validate(self, network: Network, each_batch: Callable[[], None]) -> ValidationMetrics: ...


@dataclass(frozen=True)
class OneSite:
    """A node with its own data, starting from the tensor files `start`, overlaid in order."""

    spec: RoundSpec
    data: SiteData
    start: Sequence[Path]
    options: EngineOptions

    @property
    def num_cases(self) -> int:
        return len(self.data.training)

    def identity(self) -> str:
        return work_identity(self.spec, self.data, self.start)

    def style(self) -> SiteStyle | None:
        return style_of(self.data.training) if method_facts(self.spec.config.method.name).shares_style else None

    def network(self) -> Network:
        return load_network(self.spec.config, self.start, self.options.device)

    def batches(self) -> PairLoader:
        return PairLoader(self.spec, self.data, self.options.device, cached=self.options.cache_on_device)

    def validate(self, network: Network, each_batch: Callable[[], None]) -> ValidationMetrics:
        return Scorer(self.spec.config, network, self.data.sat).metrics(self.data.validation, each_batch)
