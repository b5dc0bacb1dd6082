"""The hub of the simulation: `DirectoryExchange` on a folder in memory, and a wrapper that lets it fail.

drop        the line breaks before, during or after a transfer; the answer to a finished one is lost
delay       every block is a crossing, where other processes run and this one may die
wrong       bytes arrive changed; the final file is cut short; it vanishes
down        nobody answers for a while; a node that was cut is not known any more
"""

from pathlib import Path
from typing import Protocol

from coordinator.hub.admin import HubDownError, HubFile
from hsl_model.protocol import paths
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import Exchange, ExchangeError, TransferWatch, local_part
from node_agent.exchange.directory import DirectoryExchange
from tests.coordinator.fakes import MemoryHub
from tests.simulator.faults import Faults


class Crossings(Protocol):
    def crossing(self) -> None: ...

    def note(self, text: str) -> None: ...


class NoCrossings:
    """Where nothing else runs."""

    def crossing(self) -> None:
        """Nobody is there to go on meanwhile."""

    def note(self, text: str) -> None:
        """Nobody reads it."""


class HubFolder(MemoryHub):
    """What the coordinator manages: real files, accounts in memory."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.closed: set[str] = set()

    def folder(self, node_id: str) -> Path:
        return self.root / paths.node_folder(node_id).lstrip("/")

    def ensure_node(self, node_id: str) -> None:
        super().ensure_node(node_id)
        self.folder(node_id).mkdir(parents=True, exist_ok=True)

    def cut(self, node_id: str) -> None:
        super().cut(node_id)
        self.closed.add(node_id)

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        super().list(node_id)
        folder = self.folder(node_id)
        return tuple(HubFile(path.name, path.stat().st_size) for path in sorted(folder.iterdir()))

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        super().release(node_id, names)
        for name in names:
            (self.folder(node_id) / name).unlink(missing_ok=True)

    def address(self, node_id: str) -> HubAddress:
        if self.is_down:
            raise HubDownError(url="http://hub.test", reason="ConnectError")
        return super().address(node_id)

    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(self.root.glob("nodes/*/*")))


class FaultyExchange:
    """One node's connection. Obeys the conformance suite while no fault strikes."""

    def __init__(self, hub: HubFolder, node_id: str, faults: Faults, crossings: Crossings) -> None:
        self._inner: Exchange = DirectoryExchange(hub.root, node_id)
        self._hub = hub
        self._node_id = node_id
        self._faults = faults
        self._crossings = crossings

    def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
        self._begin("put")
        self._inner.put_tensors(source, node_id, sha256, _CutWatch(watch, self))
        final = self._hub.folder(node_id) / f"{sha256}.safetensors"
        if self._faults.strikes("file truncated"):
            self.truncate(final)
        self._end("put")

    def put_manifest(self, raw: bytes, path: str) -> None:
        self._begin("put manifest")
        self._inner.put_manifest(raw, path)
        self._end("put manifest")

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        self._begin("get")
        if self._faults.strikes("bytes wrong on the way"):
            local_part(target).write_bytes(b"something else")
            raise self.failed(FailureKind.MISMATCH, "get")
        self._inner.get_tensors(node_id, sha256, num_bytes, target, _CutWatch(watch, self))

    def get_manifest(self, path: str, sha256: str) -> bytes:
        self._begin("get manifest")
        return self._inner.get_manifest(path, sha256)

    def remove(self, path: str) -> None:
        self._begin("remove")
        self._inner.remove(path)
        self._end("remove")

    def list_own(self) -> tuple[str, ...]:
        self._begin("list")
        return self._inner.list_own()

    def close(self) -> None:
        self._inner.close()

    def block(self) -> None:
        self._crossings.crossing()
        if self._hub.is_down or self._faults.strikes("transfer cut"):
            raise self.failed(FailureKind.CONNECTION, "cut")

    def truncate(self, path: Path) -> None:
        """The hub keeps half of it under the final name."""
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.write_bytes(half)
        self._crossings.note(f"hub: {path.parent.name}/{path.name[:8]} cut short")

    def failed(self, kind: FailureKind, doing: str) -> ExchangeError:
        self._crossings.note(f"hub: {self._node_id} {doing} fails, {kind}")
        return ExchangeError(kind=kind, doing=doing)

    def _begin(self, doing: str) -> None:
        self._crossings.crossing()
        if self._hub.is_down or self._faults.strikes("transfer refused"):
            raise self.failed(FailureKind.CONNECTION, doing)
        if self._node_id in self._hub.closed:
            raise self.failed(FailureKind.LIMIT, doing)

    def _end(self, doing: str) -> None:
        self._crossings.crossing()
        if self._faults.strikes("answer of the hub lost"):
            raise self.failed(FailureKind.TIMEOUT, doing)


class _CutWatch:
    """Between two blocks: others run, the line may break."""

    def __init__(self, inner: TransferWatch, line: FaultyExchange) -> None:
        self._inner = inner
        self._line = line

    def moved(self, done: int, total: int) -> None:
        self._inner.moved(done, total)
        self._line.block()

    def cancelled(self) -> bool:
        return self._inner.cancelled()
