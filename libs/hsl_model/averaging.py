"""Fusion: the weighted mean of updates, streamed from disk, with the same bits on every machine.

For every tensor, in pieces that stay in the processor's cache:

    float     fused = cast(w_1 * x_1 + w_2 * x_2 + ...)   in float64, inputs in sorted node order, each product and each
              sum rounded on its own (numpy never contracts them), begun with the first product so that -0.0 survives
    integer   fused = the largest (batch-norm counters: methods.md H4)

The weights are those of the plan, applied as written (paper's equation 1: 1/n). Memory: one piece for each open file,
whatever the number of nodes and the size of the model.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hsl_model.checkpoint import PIECE_ELEMENTS, TensorFile, TensorFileWriter, check_specs, pieces
from hsl_model.protocol.errors import CheckpointError, HslError
from hsl_model.protocol.manifest import TensorSpec
from hsl_model.protocol.messages import PlanEntry
from hsl_model.tensor_header import DTYPES

Array = npt.NDArray[Any]


class FusionError(HslError):
    code = "fusion_refused"
    http_status = 422
    title = "These updates cannot be fused"
    template = "The fusion was refused: {reason}"


@dataclass(frozen=True)
class FusionInput:
    node_id: str
    path: Path
    weight: float  # of the plan; the caller has normalised it


@dataclass(frozen=True)
class FusedFacts:
    fused_digest: str
    file_sha256: str
    num_bytes: int


def fuse(inputs: Sequence[FusionInput], output: Path, expected: Sequence[TensorSpec] | None = None) -> FusedFacts:
    """Write the fused model to `output`, durably and always with the same bytes, whatever the order of `inputs`.

    `expected` are the tensors the run shares; without it, those of the first input. Raises `FusionError` for a plan
    that makes no sense and `CheckpointError`, naming file and tensor, for an input that cannot be fused; nothing is
    left under `output` then.
    """
    ordered = sorted(inputs, key=lambda given: given.node_id)
    _check(ordered)
    with ExitStack() as stack:
        files = [stack.enter_context(TensorFile(given.path)) for given in ordered]
        specs = files[0].specs if expected is None else tuple(expected)
        for file in files:
            check_specs(file.specs, specs, file.path)
        writer = stack.enter_context(TensorFileWriter(output, specs))
        fusion = _Fusion(files, [given.weight for given in ordered])
        for spec in writer.specs:
            for first, count in pieces(spec):
                writer.write(spec.name, fusion.piece(spec, first, count))
        facts = writer.finish()
    # A file we write is the canonical form of its tensors (`TensorsDigest`): one SHA-256 is both digests.
    return FusedFacts(fused_digest=facts.sha256, file_sha256=facts.sha256, num_bytes=facts.num_bytes)


def inputs_digest(entries: Sequence[PlanEntry]) -> str:
    """What members compare where no common model exists (`Fused.OWN`, `Fused.NONE`): which updates, at which weights.

    SHA-256 over the canonical JSON of (node_id, update_sha256, weight) in sorted node order.
    """
    ordered = sorted((entry.node_id, entry.update_sha256, entry.weight) for entry in entries)
    return hashlib.sha256(json.dumps(ordered, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def _check(ordered: Sequence[FusionInput]) -> None:
    if not ordered:
        raise FusionError(reason="the plan names no update")
    if len({given.node_id for given in ordered}) != len(ordered):
        raise FusionError(reason="the plan names a node twice")
    for given in ordered:
        if not (math.isfinite(given.weight) and given.weight >= 0):
            raise FusionError(reason=f"the weight of {given.node_id} is {given.weight}")


class _Fusion:
    """The arithmetic, with its four buffers of one piece each: input, product, sum (both float64) and result."""

    def __init__(self, files: Sequence[TensorFile], weights: Sequence[float]) -> None:
        self._files = files
        self._weights = weights
        self._input = np.empty(PIECE_ELEMENTS * 8, np.uint8)
        self._result = np.empty(PIECE_ELEMENTS * 8, np.uint8)
        self._product = np.empty(PIECE_ELEMENTS, np.float64)
        self._sum = np.empty(PIECE_ELEMENTS, np.float64)

    def piece(self, spec: TensorSpec, first: int, count: int) -> Array:
        """The fused elements; valid until the next call."""
        dtype = DTYPES[spec.dtype]
        values = self._input[: count * dtype.itemsize].view(dtype)
        result = self._result[: count * dtype.itemsize].view(dtype)
        if dtype.kind != "f":
            self._largest(spec.name, first, values, result)
            return result
        total, product = self._sum[:count], self._product[:count]
        with np.errstate(all="ignore"):  # infinities and overflows are looked for below
            for index, (file, weight) in enumerate(zip(self._files, self._weights, strict=True)):
                file.read_into(spec.name, first, values)
                term = product if index else total
                np.copyto(term, values)  # to float64 exactly; faster than a multiplication that converts
                np.multiply(term, weight, out=term)
                if index:
                    np.add(total, term, out=total)
            np.copyto(result, total, casting="same_kind")
        if not np.isfinite(result).all():
            raise self._not_finite(spec.name, first, values)
        return result

    def _largest(self, name: str, first: int, values: Array, result: Array) -> None:
        self._files[0].read_into(name, first, result)
        for file in self._files[1:]:
            file.read_into(name, first, values)
            np.maximum(result, values, out=result)

    def _not_finite(self, name: str, first: int, values: Array) -> CheckpointError:
        """Whose fault it is: NaN and infinity in any term reach the sum, so the search is made only when one did."""
        for file in self._files:
            file.read_into(name, first, values)
            if not np.isfinite(values).all():
                return CheckpointError(path=file.path.name, reason=f"tensor {name} holds NaN or infinity")
        return CheckpointError(path=self._files[0].path.name, reason=f"tensor {name} overflows its type when fused")
