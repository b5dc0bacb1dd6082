"""How long a cell will take here: a few real steps of one node, times the steps of all."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from hsl_model.batches import PairLoader
from hsl_model.data import SiteData
from hsl_model.engine import EngineOptions, RoundSpec, train_round, write_initial
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import RunConfig
from hsl_study.arms import arm_work
from hsl_study.config import ArmConfig

BASELINE_S = 5.0  # nearly all of it is starting a process
PROBED_STEPS = 4  # the first pays for warming up
BESIDE_STEPS = 1.2  # validation after every epoch and fusion; an estimate is good to about a third


def arm_seconds(
    arm: ArmConfig, run: RunConfig, sites: Mapping[str, SiteData], options: EngineOptions, clock: Clock
) -> float:
    """Of one cell of an arm of any kind."""
    if arm.baseline is not None:
        return BASELINE_S
    return estimated_seconds(*arm_work(arm, run, sites), options, clock)


def estimated_seconds(run: RunConfig, sites: Mapping[str, SiteData], options: EngineOptions, clock: Clock) -> float:
    """Of one federation, alone on a core or a GPU. Nothing of the probe is kept."""
    first = min(sites)
    few = {"local_epochs": 1, "fuse_every_steps": None, "images_per_epoch": PROBED_STEPS * run.training.batch_size}
    probe = run.model_copy(update={"training": run.training.model_copy(update=few)})
    times: list[float] = []
    with TemporaryDirectory() as name:
        train_round(
            _spec(probe, first),
            sites[first],
            [write_initial(run, Path(name)).shared.path],
            Path(name) / "round",
            options,
            should_stop=lambda: False,
            progress=lambda _done, _total: times.append(clock.monotonic()),
        )
    step_s = (times[-1] - times[1]) / (len(times) - 2)  # times[0] is the beginning, times[1] the first step's end
    return BESIDE_STEPS * step_s * sum(_num_steps(run, node, data) for node, data in sites.items())


def _num_steps(run: RunConfig, node_id: str, data: SiteData) -> int:
    per_epoch = PairLoader(_spec(run, node_id), data, "cpu").steps_per_epoch
    return run.training.steps_a_round(per_epoch) * run.num_rounds


def _spec(run: RunConfig, node_id: str) -> RoundSpec:
    return RoundSpec(run_id="estimate", node_id=node_id, round_number=1, config=run)
