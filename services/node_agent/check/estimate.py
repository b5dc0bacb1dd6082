"""How long a round will take here, from what was measured.

training   local epochs x steps of an epoch x time of a batch
transfer   one update up, one of each other member down
"""

from dataclasses import dataclass

from hsl_model.protocol.config import RunConfig
from node_agent.check.finding import Estimate
from node_agent.check.transfer import Speeds


@dataclass(frozen=True)
class RoundSize:
    """What a round is here. `num_cases`: of training; `assumed` says that nobody told."""

    config: RunConfig
    num_members: int
    num_cases: int
    assumed: bool
    model_bytes: int

    @property
    def num_steps(self) -> int:
        training = self.config.training
        images = training.images_per_epoch or self.num_cases
        return training.steps_a_round(-(-images // training.batch_size))


def estimated(size: RoundSize, batch_s: float | None, speeds: Speeds | None) -> Estimate:
    training_s = None if batch_s is None else size.num_steps * batch_s
    others = size.num_members - 1
    transfer_s = None if speeds is None else size.model_bytes * (1 / speeds.up + others / speeds.down)
    parts = (_training(size, training_s), _transfer(size, transfer_s))
    if training_s is None or transfer_s is None:
        begin = f"How long a round of {size.num_members} members takes here cannot be said yet"
    else:
        begin = f"A round of {size.num_members} members takes about {_duration(training_s + transfer_s)} here"
    sentence = f"{begin}: {parts[0]}, {parts[1]}."
    return Estimate(training_s=training_s, transfer_s=transfer_s, sentence=sentence)


def _training(size: RoundSize, training_s: float | None) -> str:
    took = "training not measured" if training_s is None else f"{_duration(training_s)} of training"
    assumed = f", {size.num_cases} cases assumed" if size.assumed and not size.config.training.images_per_epoch else ""
    return f"{took} ({size.num_steps} batches{assumed})"


def _transfer(size: RoundSize, transfer_s: float | None) -> str:
    model = f"{size.model_bytes / 1e6:.0f} MB up, {(size.num_members - 1) * size.model_bytes / 1e6:.0f} MB down"
    took = "transfer not measured" if transfer_s is None else f"{_duration(transfer_s)} of transfer"
    return f"{took} ({model}); waiting for the other sites comes on top"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
