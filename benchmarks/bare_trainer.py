"""A training child that trains nothing: it writes a model of the published network's size and answers at once.

The tensors' names and shapes come from a file made once by the benchmark, so that no child imports torch.
`HSL_BENCH_SPECS` names that file.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from hsl_model.checkpoint import FileFacts, write_tensors
from hsl_model.protocol.config import Message
from hsl_model.protocol.manifest import TensorSpec, UpdateMetrics
from hsl_model.protocol.messages import ClassCounts, TruthCounts, ValidationMetrics
from node_agent.trainer import messages as m

COUNTS = ClassCounts(positive=5, negative=5)


def specs() -> tuple[TensorSpec, ...]:
    listed = json.loads(Path(os.environ["HSL_BENCH_SPECS"]).read_text())
    return tuple(TensorSpec.model_validate(item) for item in listed)


class Model:
    """Drawn once, so that a "trained" model costs one addition per element: what is measured is its way to the disk."""

    def __init__(self) -> None:
        self._specs = specs()
        random = np.random.default_rng(0)
        self._drawn = {spec.name: random.standard_normal(spec.shape, dtype=np.float32) for spec in self._specs}

    def trained(self, key: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Another one for each key."""
        shift = np.random.default_rng(key).standard_normal(dtype=np.float32)
        return {
            spec.name: np.array(key[0], np.int64) if spec.dtype == "I64" else self._drawn[spec.name] + shift
            for spec in self._specs
        }


def answer(model: Model, request: Message) -> Message:
    if isinstance(request, m.Prepare):
        return m.Prepared(counts=TruthCounts(training=COUNTS, validation=COUNTS, test=COUNTS), lines=())
    if isinstance(request, m.Describe):
        return m.Described(shared=specs(), full=specs())
    if isinstance(request, m.Initialise):
        request.folder.mkdir(parents=True, exist_ok=True)
        return trained(write_tensors(request.folder / "shared.safetensors", model.trained((0,))), 0)
    if isinstance(request, m.TrainRound):
        work = request.work
        request.workspace.mkdir(parents=True, exist_ok=True)
        key = (work.round_number, work.config.seed, *work.node_id.encode())
        return trained(write_tensors(request.workspace / "shared.safetensors", model.trained(key)), 10)
    if isinstance(request, m.Validate):
        return m.Validated(metrics=ValidationMetrics(auc=0.5, num_cases=10))
    raise NotImplementedError(type(request).__name__)


def trained(made: FileFacts, num_cases: int) -> m.Trained:
    return m.Trained(
        shared=m.MadeFile(path=made.path, sha256=made.sha256, num_bytes=made.num_bytes),
        private=None,
        metrics=UpdateMetrics(validation_auc=0.5, shared_epoch=0, num_steps=1),
        num_cases=num_cases,
    )


if __name__ == "__main__":
    drawn = Model()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(m.to_line(answer(drawn, m.REQUEST.validate_json(line))))
        sys.stdout.buffer.flush()
