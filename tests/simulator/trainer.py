"""The training child as a piece of the agent: the same questions and answers, a network of five numbers, no process.

What it makes follows from (start model, node, round) alone, as training on CPU does; a crash in the middle goes on from
the snapshot, and a finished round in the workspace is handed back as it is.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hsl_model.checkpoint import TensorFile, spec_of, write_tensors
from hsl_model.durable import write_bytes
from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import TensorSpec, UpdateMetrics
from hsl_model.protocol.messages import ClassCounts, TruthCounts, ValidationMetrics
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted, TrainerDiedError, TrainerFailedError
from node_agent.mailbox import Mailbox
from node_agent.trainer import messages as m
from tests.simulator.faults import Faults
from tests.simulator.oracle import Made
from tests.simulator.scheduler import SiteClock

Answer = TypeVar("Answer", bound=Message)
Model = dict[str, np.ndarray[Any, Any]]
EMPTY = hashlib.sha256(b"").hexdigest()
COUNTS = ClassCounts(positive=6, negative=4)
STEP_S = 20.0  # virtual seconds a training step takes
NUM_STEPS = 3
_FULL = {"counter": np.array(0, np.int64), "weight": np.arange(4, dtype=np.float32)}
_NOT_SHARED = {"fedbn": ("counter",), "local": ("counter", "weight")}


def shared_specs(method: str) -> tuple[TensorSpec, ...]:
    return tuple(spec for spec in FULL_SPECS if spec.name not in _NOT_SHARED.get(method, ()))


FULL_SPECS = tuple(spec_of(name, values) for name, values in sorted(_FULL.items()))


class SimulatedTrainer:
    """Stands where `node_agent.trainer.parent.Trainer` stands, and is made as that is."""

    faults: Faults  # both are the world's, set when it begins
    made: dict[str, Made]  # SHA-256 of a file -> what is in it, and who made it when

    def __init__(self, command: tuple[str, ...], run_folder: Path, mailbox: Mailbox, clock: SiteClock) -> None:
        del command
        self.run_folder = run_folder
        self.pid = None
        self._mailbox = mailbox
        self._clock = clock

    def ask(
        self,
        request: Message,
        answer: type[Answer],
        *,
        keep_going: Callable[[], bool],
        progress: Callable[[int, int], None] | None = None,
        stall_s: float | None = None,
    ) -> Answer:
        del stall_s
        self._clock.crossing()
        if self.faults.strikes("child died"):
            raise TrainerDiedError(status=-9)
        try:
            if isinstance(request, m.TrainRound):
                reply: Message = self._train(request, keep_going, progress)
            elif isinstance(request, m.Initialise):
                reply = self._initialise(request)
            else:
                reply = _ANSWERS[type(request)](request)
        except HslError as error:  # as the child answers it
            if isinstance(error, TrainerDiedError):
                raise
            raise TrainerFailedError(FailureKind.REJECTED, error.code, error.sentence()) from error
        self._clock.crossing()
        assert isinstance(reply, answer)
        return reply

    def close(self, patience_s: float = 0.0) -> None:
        """Nothing is kept but files."""

    def _train(
        self, request: m.TrainRound, keep_going: Callable[[], bool], progress: Callable[[int, int], None] | None
    ) -> m.Trained:
        request.workspace.mkdir(parents=True, exist_ok=True)
        done, snapshot = request.workspace / "trained.json", request.workspace / "snapshot.json"
        if done.exists():
            return m.Trained.model_validate_json(done.read_bytes())
        step = int(json.loads(snapshot.read_bytes())) if snapshot.exists() else 0
        while step < NUM_STEPS:
            if not keep_going():
                write_bytes(snapshot, json.dumps(step).encode())
                raise Interrupted
            self._clock.wait(self._mailbox.changed, STEP_S)
            step += 1
            if progress is not None:
                progress(step, NUM_STEPS)
            if self.faults.strikes("child died"):
                raise TrainerDiedError(status=-9)
        trained = self._made(request)
        write_bytes(done, trained.model_dump_json().encode())
        return trained

    def _initialise(self, request: m.Initialise) -> m.Trained:
        request.folder.mkdir(parents=True, exist_ok=True)
        made = write(request.folder / "shared.safetensors", _FULL)
        self.made[made.sha256] = Made("", 0, _FULL)
        metrics = UpdateMetrics(validation_auc=None, shared_epoch=0, num_steps=0)
        return m.Trained(shared=made, private=None, metrics=metrics, num_cases=0)

    def _made(self, request: m.TrainRound) -> m.Trained:
        work, method = request.work, request.work.config.method.name
        model = overlay(work.start)
        word = hashlib.sha256(f"{work.node_id} {work.round_number}".encode()).digest()
        model = {
            "weight": (model["weight"] + np.float32(word[0] / 256)).astype(np.float32),
            "counter": model["counter"] + 1,
        }
        if work.round_number > 0 and self.faults.strikes("update not finite"):
            model["weight"] = np.full(4, np.nan, np.float32)
        kept = {name: model[name] for name in _NOT_SHARED.get(method, ())}
        shared = {name: values for name, values in model.items() if name not in kept}
        made = write(request.workspace / "shared.safetensors", shared)
        self.made[made.sha256] = Made(work.node_id, work.round_number, shared)
        private = write(request.workspace / "private.safetensors", kept) if kept else None
        metrics = UpdateMetrics(validation_auc=0.5, shared_epoch=1, num_steps=10)
        return m.Trained(shared=made, private=private, metrics=metrics, num_cases=10 + word[1])


def write(path: Path, model: Model) -> m.MadeFile:
    if not model:
        path.write_bytes(b"")
        return m.MadeFile(path=path, sha256=EMPTY, num_bytes=0)
    facts = write_tensors(path, model)
    return m.MadeFile(path=path, sha256=facts.sha256, num_bytes=facts.num_bytes)


def overlay(paths: tuple[Path, ...]) -> Model:
    model: Model = {}
    for path in paths:
        with TensorFile(path) as file:
            model |= {spec.name: file.read(spec.name) for spec in file.specs}
    return model


def _describe(request: m.Describe) -> m.Described:
    return m.Described(shared=shared_specs(request.config.method.name), full=FULL_SPECS)


def _validate(request: m.Validate) -> m.Validated:
    weight = overlay(request.work.start)["weight"]
    auc = float(abs(weight.astype(np.float64).sum()) % 1.0)
    return m.Validated(metrics=ValidationMetrics(auc=auc, num_cases=10))


def _fuse_own(request: m.FuseOwn) -> m.Fused:
    models = {node_id: overlay((path,)) for node_id, path in sorted(request.files.items())}
    own = models.pop(request.work.node_id, None) or next(iter(models.values()))
    others = [model["weight"].astype(np.float64) for model in models.values()] or [own["weight"].astype(np.float64)]
    mean = sum(others[1:], others[0]) / len(others)
    made = write(request.output, {"weight": ((own["weight"] + mean) / 2).astype(np.float32), "counter": own["counter"]})
    return m.Fused(model=made)


def _prepare(_: m.Prepare) -> m.Prepared:
    return m.Prepared(counts=TruthCounts(training=COUNTS, validation=COUNTS, test=COUNTS), lines=("20 images found",))


_ANSWERS: dict[type[Message], Callable[[Any], Message]] = {
    m.Describe: _describe,
    m.Validate: _validate,
    m.FuseOwn: _fuse_own,
    m.Prepare: _prepare,
}
