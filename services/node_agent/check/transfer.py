"""One file up to the hub, down again, and away: through the exchange that carries the models, into the egress ledger.

The file holds random bytes under the name of a tensor, so nothing of the site is in it and no line can compress it. It
begins small; a line that carries that at once is measured with a larger one.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hsl_model.checkpoint import write_tensors
from hsl_model.durable import DiskFullError
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.paths import tensor_path
from node_agent.check.finding import Concern, Finding, Outcome, Place
from node_agent.exchange.base import Exchange, ExchangeError

PROBE_BYTES = 1_000_000  # 2 s at 4 Mbit/s
LARGE_PROBE_BYTES = 16_000_000
QUICK_S = 0.5  # below this the round trips are measured, not the line
SLOW_BYTES_PER_S = 1_250_000  # 10 Mbit/s: below it a model of the published size takes more than a minute


@dataclass(frozen=True)
class Speeds:
    """Bytes per second, up and down."""

    up: float
    down: float


@dataclass
class Timed:
    """A `TransferWatch` that takes the time from the first byte to the last."""

    clock: Clock
    began_s: float | None = None
    ended_s: float | None = None

    def moved(self, done: int, total: int) -> None:
        now_s = self.clock.monotonic()
        if self.began_s is None:
            self.began_s = now_s
        if done == total and self.ended_s is None:
            self.ended_s = now_s

    def cancelled(self) -> bool:
        return False

    @property
    def took_s(self) -> float:
        return max(1e-6, (self.ended_s or 0.0) - (self.began_s or 0.0))


def check_transfer(
    place: Place, exchange: Exchange, node_id: str, folder: Path, clock: Clock
) -> tuple[Sequence[Finding], Speeds | None]:
    """Findings of upload and download. `folder` is the check's own. The file on the hub is removed in any case."""
    concern = Concern.UPLOAD
    speeds: Speeds | None = None
    try:
        for num_bytes in (PROBE_BYTES, LARGE_PROBE_BYTES):
            concern = Concern.UPLOAD
            probe = write_tensors(folder / "probe", {"hsl.check": _random(num_bytes)})
            up, down = Timed(clock), Timed(clock)
            try:
                exchange.put_tensors(probe.path, node_id, probe.sha256, up)
                concern = Concern.DOWNLOAD
                exchange.get_tensors(node_id, probe.sha256, probe.num_bytes, folder / "back", down)
            finally:
                exchange.remove(tensor_path(node_id, probe.sha256))
            (folder / "back").unlink()
            speeds = Speeds(probe.num_bytes / up.took_s, probe.num_bytes / down.took_s)
            if max(up.took_s, down.took_s) > QUICK_S:
                break
    except (ExchangeError, DiskFullError) as error:
        return (place.found(concern, Outcome.FAILED, error.sentence()),), None
    finally:
        exchange.close()
    return () if speeds is None else judged(place, speeds), speeds


def judged(place: Place, speeds: Speeds) -> tuple[Finding, ...]:
    return (
        _speed(place, Concern.UPLOAD, speeds.up),
        _speed(place, Concern.DOWNLOAD, speeds.down),
    )


def _speed(place: Place, concern: Concern, bytes_per_s: float) -> Finding:
    shown = f"{bytes_per_s * 8 / 1e6:.1f} Mbit/s, measured with a real file through the exchange"
    if bytes_per_s >= SLOW_BYTES_PER_S:
        return place.found(concern, Outcome.OK, f"{shown}; it was removed again.", bytes_per_s=bytes_per_s)
    sentence = (
        f"The line is slow: {shown}. It works, and takes {95 / (bytes_per_s / 1e6) / 60:.0f} min for each model of the "
        "published size (95 MB). HSL_NODE_MAX_… limits, traffic shaping or other traffic may be the reason."
    )
    return place.found(concern, Outcome.WARNING, sentence, "give more bandwidth:", bytes_per_s=bytes_per_s)


def _random(num_bytes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(secrets.token_bytes(num_bytes), dtype=np.uint8)
