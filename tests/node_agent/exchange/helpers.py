"""Files to transfer, and watches that remember or cancel."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import ExchangeError

MIB = 1 << 20


@dataclass(frozen=True)
class Content:
    data: bytes
    path: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def __len__(self) -> int:
        return len(self.data)


def make_content(folder: Path, num_bytes: int, seed: int = 0) -> Content:
    data = np.random.default_rng((seed, num_bytes)).bytes(num_bytes)
    path = folder / f"source-{num_bytes}-{seed}"
    path.write_bytes(data)
    return Content(data, path)


def failure_of(call: Callable[[], object]) -> FailureKind | None:
    """The kind of `ExchangeError` that a call raises, if it raises one."""
    try:
        call()
    except ExchangeError as error:
        return error.kind
    return None


@dataclass
class Watch:
    """Remembers progress; cancels once `cancel_at` bytes are done."""

    cancel_at: float = float("inf")
    moves: list[tuple[int, int]] = field(default_factory=list)

    def moved(self, done: int, total: int) -> None:
        self.moves.append((done, total))

    def cancelled(self) -> bool:
        return self.done >= self.cancel_at

    @property
    def start(self) -> int:
        return self.moves[0][0]

    @property
    def done(self) -> int:
        return self.moves[-1][0] if self.moves else 0
