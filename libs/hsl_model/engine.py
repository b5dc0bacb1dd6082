"""The training loop: the only one, used by the node's training child and by the simulation.

    train_round:   finished before? -> the same result again
                   snapshot of this very work in this environment? -> continue at its step
                   else begin from the start files
                   per epoch: steps, validation, keep the best, snapshot            (methods/base.py has the hooks)
                   shared.safetensors, private.safetensors, result.json             (then the snapshot goes)

Exact resume: everything random is keyed by its place (seeding.py), so weights, moments, method memory, the best epoch
and the position are all there is to carry. On CPU a resumed round then equals the uninterrupted one bit for bit, if
versions, thread count and batch sizes are those of the snapshot; if not, the round begins anew and says so.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hsl_model.data import SiteData
from hsl_model.device import Forward
from hsl_model.methods import load
from hsl_model.methods.base import LocalRun
from hsl_model.model_state import fuse_own, initial_tensors, shared_names, write_initial
from hsl_model.optimise import learning_rate, make_optimizer, set_learning_rate
from hsl_model.protocol.errors import CheckpointError, ConfigError
from hsl_model.protocol.manifest import UpdateMetrics
from hsl_model.results import FinishedWork, read_result, write_result
from hsl_model.round_work import DivergedError, EngineOptions, Interrupted, RoundResult, RoundSpec
from hsl_model.sampler import micro_batches
from hsl_model.scoring import evaluate, predict, validate
from hsl_model.seeding import stream_seed
from hsl_model.snapshot import EpochFacts, Position, SnapshotFacts, SnapshotFolder
from hsl_model.training_state import TrainingState, environment
from hsl_model.workplace import OneSite, Workplace

__all__ = [
    "DivergedError",
    "EngineOptions",
    "Interrupted",
    "RoundResult",
    "RoundSpec",
    "evaluate",
    "fuse_own",
    "initial_tensors",
    "predict",
    "shared_names",
    "train_at",
    "train_round",
    "validate",
    "write_initial",
]
logger = logging.getLogger(__name__)


def train_round(
    spec: RoundSpec,
    data: SiteData,
    start: Sequence[Path],
    workspace: Path,
    options: EngineOptions,
    *,
    should_stop: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> RoundResult:
    """Train round `spec.round_number` (>= 1) from the tensor files `start`, overlaid in order.

    `workspace` is this round's own folder; call again with it to continue or to get the same result. `progress` is told
    (steps done, steps in all). Raises `Interrupted` once a snapshot is written after `should_stop()`, `DivergedError`,
    `ConfigError` for data that does not fit the task, `CheckpointError` for a start that does not fit the network.
    """
    place = OneSite(spec, data, start, options)
    return train_at(place, workspace, options, should_stop=should_stop, progress=progress)


def train_at(
    place: Workplace,
    workspace: Path,
    options: EngineOptions,
    *,
    should_stop: Callable[[], bool],
    progress: Callable[[int, int], None],
) -> RoundResult:
    """`train_round` wherever it may be: one site's round, or one of several sites together."""
    if place.spec.round_number < 1:
        raise ConfigError(reason="round 0 is the initial weights; training begins with round 1")
    torch.set_num_threads(options.num_threads)
    workspace.mkdir(parents=True, exist_ok=True)
    snapshots = SnapshotFolder(workspace)
    identity = place.identity()
    result = read_result(workspace, identity)
    if result is None:
        training = _Training(place, options, identity)
        training.resume(snapshots)
        training.train(should_stop, progress)
        result = training.write_result(workspace)
    snapshots.clear()
    return result


class _Training:
    """One round: its parts, and the loop over them."""

    def __init__(self, place: Workplace, options: EngineOptions, identity: str) -> None:
        self._place, self._spec, self._options, self._identity = place, place.spec, options, identity
        config, network = self._spec.config, place.network()
        self._settings = config.training
        if self._settings.fixed_head:
            network.fix_head()
        self._loader = place.batches()
        self._forward = Forward(network, options, self._settings)
        self._method = load(config.method.name, config.method.options)
        self._state = TrainingState(LocalRun(network), make_optimizer(network, self._settings))
        self._snapshots: SnapshotFolder
        self._restarted = False
        self._method.begin_round(self._state.run)

    # --- the loop ---

    def train(self, should_stop: Callable[[], bool], progress: Callable[[int, int], None]) -> None:
        num_steps = self._loader.steps_per_epoch
        num_epochs, every = self._settings.local_epochs, self._options.snapshot_every_steps
        progress(self._steps_done, num_epochs * num_steps)
        while self._state.at.epoch < num_epochs:
            while self._state.at.step < num_steps:
                self._stop_if(should_stop)
                self._step()
                progress(self._steps_done, num_epochs * num_steps)
                if every is not None and self._steps_done % every == 0:
                    self._save()
            self._end_epoch(should_stop)
            if every is not None and self._state.at.epoch < num_epochs:
                self._save()  # after the last epoch the result files take its place

    def _step(self) -> None:
        """One optimiser step on one batch, in parts where the device is too small for all of it."""
        state, at = self._state, self._state.at
        state.run.network.train()
        batch = self._loader.batch(at.epoch, at.step)
        rate = learning_rate(self._settings, self._loader.epoch_of_run(at.epoch, at.step))
        set_learning_rate(state.optimizer, rate)
        torch.manual_seed(stream_seed(*self._spec.key, self._steps_done, "dropout"))
        state.optimizer.zero_grad()
        batch_loss, ratio = 0.0, 0.0
        for where in micro_batches(len(batch), self._options.micro_batch_size):
            part = self._method.select(batch.part(where))
            share = len(part) / len(batch)
            output = self._forward(part.images, part.sat_images)
            loss = self._method.loss(state.run, output, part) * share
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not say
            batch_loss += loss.item()
            ratio += math.nan if output.mixture_ratio is None else output.mixture_ratio.item() * share
        if not math.isfinite(batch_loss):
            raise DivergedError(what=f"The training loss of step {self._steps_done + 1}")
        state.optimizer.step()
        state.at = at.after_step(batch_loss, ratio)

    def _end_epoch(self, should_stop: Callable[[], bool]) -> None:
        """Validate, keep a copy if this epoch is the one to share so far, go to the next."""
        state, at = self._state, self._state.at
        found = self._place.validate(state.run.network, lambda: self._stop_if(should_stop))
        epoch = EpochFacts(
            epoch=at.epoch + 1,
            auc=found.auc,
            loss=found.loss,
            training_loss=at.loss_sum / at.step,
            mixture_ratio=at.ratio_sum / at.ratio_steps if at.ratio_steps else None,
        )
        logger.info("%s, round %d: %s", self._spec.node_id, self._spec.round_number, epoch.model_dump_json())
        is_last = epoch.epoch == self._settings.local_epochs
        if is_last if self._settings.share_epoch == "last" else is_better(epoch, state.best):
            state.keep(epoch)
        state.at = Position(epoch=at.epoch + 1)

    @property
    def _steps_done(self) -> int:
        return self._state.at.epoch * self._loader.steps_per_epoch + self._state.at.step

    # --- snapshot and resume ---

    def resume(self, snapshots: SnapshotFolder) -> None:
        """Continue this work's snapshot if that can be exact; else begin anew, and record that."""
        self._snapshots = snapshots
        try:
            facts = snapshots.read()
            if facts is None or facts.identity != self._identity:
                self._snapshots.clear()
                return
            self._restarted = facts.restarted
            if facts.environment == environment(self._options, self._settings):
                packed = self._snapshots.tensors(facts.state_file)
                best_tensors = self._snapshots.tensors(facts.best_file)
                self._state.unpack(packed)
                self._state.at, self._state.best, self._state.best_tensors = facts.position, facts.best, best_tensors
                return
            reason = "its snapshot was made in another environment"
        except CheckpointError as error:
            reason = error.sentence()
        logger.warning("round %d begins anew: %s", self._spec.round_number, reason)
        self._restarted = True
        self._snapshots.clear()

    def _save(self) -> None:
        facts = SnapshotFacts(
            identity=self._identity,
            environment=environment(self._options, self._settings),
            restarted=self._restarted,
            position=self._state.at,
            best=self._state.best,
        )
        self._snapshots.write(facts, self._state.pack(), self._state.best_tensors)

    def _stop_if(self, should_stop: Callable[[], bool]) -> None:
        if should_stop():
            self._save()
            raise Interrupted

    # --- the result ---

    def write_result(self, workspace: Path) -> RoundResult:
        """The shared epoch's tensors, parted into what the node publishes and what it keeps."""
        best = self._state.best
        if best is None:
            raise RuntimeError("a result needs at least one finished epoch")
        names = self._method.shared_keys(self._state.run.network)
        micro = self._options.micro_batch_size
        metrics = UpdateMetrics(
            validation_auc=best.auc,
            validation_loss=best.loss,
            training_loss=best.training_loss,
            mixture_ratio=best.mixture_ratio,
            shared_epoch=best.epoch,
            num_steps=self._steps_done,
            micro_batch_size=micro if micro is not None and micro < self._settings.batch_size else None,
            restarted=self._restarted,
            style=self._place.style(),
        )
        work = FinishedWork(self._identity, metrics, self._place.num_cases)
        return write_result(workspace, work, self._state.best_tensors, names)


def is_better(epoch: EpochFacts, best: EpochFacts | None) -> bool:
    """Highest validation AUC, of equals the later; where it is undefined, lowest validation loss (methods.md 1.8)."""
    if best is None:
        return True
    if epoch.auc is not None and best.auc is not None:
        return epoch.auc >= best.auc
    if epoch.loss is not None and best.loss is not None:
        return epoch.loss <= best.loss
    return True
