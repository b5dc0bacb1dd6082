"""The snapshot of a round in progress: what is not in here does not exist after a restart.

    state-{a,b}.safetensors    network, optimiser moments, method memory      written first
    best-{a,b}.safetensors     the best epoch so far, when it has changed     written next
    snapshot.json              position, names and digests of the two         written last: it makes them one

Each file replaces its elder atomically, and a tensor file goes into the slot that the present snapshot.json does not
name. So a crash at any instant leaves the old snapshot or the new one.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from hsl_model.checkpoint import read_tensors, sha256_file, write_tensors
from hsl_model.durable import write_bytes
from hsl_model.protocol.config import Message, Sha256
from hsl_model.protocol.errors import CheckpointError, HslError
from hsl_model.protocol.manifest import canonical_json

SNAPSHOT_VERSION = 1
Tensors = Mapping[str, npt.NDArray[np.generic]]


class SnapshotVersionError(HslError):
    code = "snapshot_too_new"
    http_status = 409
    title = "The snapshot was written by a newer version"
    template = (
        "{path} has format {found}, this version reads up to {known}. "
        "Update this installation, or delete that folder to begin the round anew."
    )


class EpochFacts(Message):
    """A finished local epoch; `epoch` counts from 1 within the round."""

    epoch: int = Field(ge=1)
    auc: float | None
    loss: float | None
    training_loss: float
    mixture_ratio: float | None


class Position(Message):
    """Where the round stands: `step` of `epoch` is next (both from 0); sums over the steps of this epoch so far."""

    epoch: int = Field(default=0, ge=0)
    step: int = Field(default=0, ge=0)
    loss_sum: float = 0.0
    ratio_sum: float = 0.0
    ratio_steps: int = Field(default=0, ge=0, description="steps whose mixture ratio was defined")

    def after_step(self, loss: float, ratio: float) -> "Position":
        """One step further; `ratio` is NaN where the network has no mixture."""
        defined = math.isfinite(ratio)
        return Position(
            epoch=self.epoch,
            step=self.step + 1,
            loss_sum=self.loss_sum + loss,
            ratio_sum=self.ratio_sum + (ratio if defined else 0.0),
            ratio_steps=self.ratio_steps + defined,
        )


class SavedTensors(Message):
    name: str = Field(pattern=r"^(state|best)-[ab]\.safetensors$")
    sha256: Sha256


class SnapshotFacts(Message):
    version: int = SNAPSHOT_VERSION
    identity: Sha256 = Field(description="of the run, node, round, settings and start model")
    environment: dict[str, str]
    restarted: bool
    position: Position
    best: EpochFacts | None
    state_file: SavedTensors | None = None
    best_file: SavedTensors | None = None


class SnapshotFolder:
    """The snapshot files of one round's workspace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._index = folder / "snapshot.json"
        self._current: SnapshotFacts | None = None

    def write(self, facts: SnapshotFacts, state: Tensors, best: Tensors) -> None:
        """Make this the snapshot. The best epoch's file is written only if `facts.best` is another epoch."""
        held = self._current
        state_file = self._save("state", state, held.state_file if held else None)
        best_file = held.best_file if held else None
        if facts.best is not None and (held is None or held.best != facts.best):
            best_file = self._save("best", best, best_file)
        complete = facts.model_copy(update={"state_file": state_file, "best_file": best_file})
        write_bytes(self._index, canonical_json(complete))
        self._current = complete

    def read(self) -> SnapshotFacts | None:
        """The index; None where there is none. Raises `CheckpointError` if damaged, `SnapshotVersionError` if newer."""
        if not self._index.is_file():
            return None
        try:
            version = json.loads(self._index.read_bytes())["version"]
            if isinstance(version, int) and version > SNAPSHOT_VERSION:
                raise SnapshotVersionError(path=str(self._folder), found=version, known=SNAPSHOT_VERSION)
            self._current = SnapshotFacts.model_validate_json(self._index.read_bytes())
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise CheckpointError(path=str(self._index), reason="not a snapshot index") from error
        return self._current

    def tensors(self, saved: SavedTensors | None) -> dict[str, npt.NDArray[np.generic]]:
        """One of the files that the index names. Raises `CheckpointError` if it is not what was written."""
        if saved is None:
            return {}
        path = self._folder / saved.name
        if not path.is_file() or sha256_file(path) != saved.sha256:
            raise CheckpointError(path=str(path), reason="missing, or not the file the snapshot speaks of")
        return read_tensors(path)

    def clear(self) -> None:
        """Remove the snapshot, its index first: the other files mean nothing without it."""
        self._index.unlink(missing_ok=True)
        for kind in ("state", "best"):
            for slot in ("a", "b"):
                (self._folder / f"{kind}-{slot}.safetensors").unlink(missing_ok=True)
        self._current = None

    def _save(self, kind: str, tensors: Tensors, held: SavedTensors | None) -> SavedTensors:
        slot = "b" if held is not None and held.name == f"{kind}-a.safetensors" else "a"
        name = f"{kind}-{slot}.safetensors"
        return SavedTensors(name=name, sha256=write_tensors(self._folder / name, tensors).sha256)
