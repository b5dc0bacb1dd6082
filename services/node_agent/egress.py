"""The egress ledger: one hash-chained row for everything that leaves the house, written before it leaves.

    head(n) = SHA-256 over the canonical JSON of row n, which carries head(n - 1)

Its head goes into every manifest, so that a ledger rewritten afterwards no longer fits what the alliance has seen.
Rows name what left (fields of a message; tensors with dtype and shape), never a value. `verify` needs no network.

Two guards stand at the only two doors: `coordinator_client` sends nothing but messages of the protocol, through
`message()`; `GuardedExchange` uploads nothing but manifests and tensor files, and `check_declared` holds the tensors of
a file against what the round shares.
"""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hsl_model.checkpoint import TensorFile
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import Message
from hsl_model.protocol.manifest import TensorSpec, parse_signed
from hsl_model.protocol.paths import tensor_path
from node_agent.errors import EgressBrokenError, EgressRefusedError
from node_agent.exchange.base import Exchange, TransferWatch
from node_agent.journal import Journal

GENESIS = "0" * 64
# A heartbeat every 20 s would be a row of its own a million times a year; they are counted and summed up instead.
CONTROL_MESSAGES_PER_ROW = 200


@dataclass(frozen=True)
class EgressEntry:
    seq: int
    at: str
    kind: str  # tensors | manifest | message | control
    destination: str
    sha256: str
    num_bytes: int
    names: tuple[str, ...]
    previous: str

    @property
    def head(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class EgressSummary:
    num_entries: int
    num_bytes: int
    head: str


class EgressLedger:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._control: set[str] = set()
        self._num_control = 0
        self._control_bytes = 0
        self._control_hash = hashlib.sha256()

    def head(self) -> str:
        with self._journal.transaction() as connection:
            row = connection.execute("SELECT head FROM egress ORDER BY seq DESC LIMIT 1").fetchone()
        return GENESIS if row is None else str(row["head"])

    def message(self, destination: str, message: Message, body: bytes) -> None:
        """A message that says something of this site's data or model: one row."""
        self.append("message", destination, body, field_names(message.model_dump(mode="json")))

    def control(self, destination: str, body: bytes) -> None:
        """A poll or heartbeat: summed up into one row every `CONTROL_MESSAGES_PER_ROW`, and when the agent ends."""
        with self._journal.transaction():  # its lock also guards the counters
            self._control.add(destination)
            self._num_control += 1
            self._control_bytes += len(body)
            self._control_hash.update(body)
            if self._num_control >= CONTROL_MESSAGES_PER_ROW:
                self.flush()

    def flush(self) -> None:
        with self._journal.transaction():
            if self._num_control == 0:
                return
            names = (f"{self._num_control} messages", *sorted(self._control))
            digest, num_bytes = self._control_hash.hexdigest(), self._control_bytes
            self._control, self._num_control, self._control_bytes = set(), 0, 0
            self._control_hash = hashlib.sha256()
            self._append("control", "coordinator", (digest, num_bytes), names)

    def append(self, kind: str, destination: str, body: bytes, names: Sequence[str]) -> None:
        self._append(kind, destination, (hashlib.sha256(body).hexdigest(), len(body)), names)

    def append_file(self, destination: str, sha256: str, num_bytes: int, names: Sequence[str]) -> None:
        self._append("tensors", destination, (sha256, num_bytes), names)

    def _append(self, kind: str, destination: str, content: tuple[str, int], names: Sequence[str]) -> None:
        with self._journal.transaction() as connection:
            found = connection.execute("SELECT seq, head FROM egress ORDER BY seq DESC LIMIT 1").fetchone()
            seq, previous = (1, GENESIS) if found is None else (found["seq"] + 1, found["head"])
            at = self._clock.now().isoformat()
            entry = EgressEntry(seq, at, kind, destination, *content, tuple(names), previous)
            connection.execute(
                "INSERT INTO egress (seq, at, kind, destination, sha256, num_bytes, names, previous, head)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (seq, at, kind, destination, *content, json.dumps(entry.names), previous, entry.head),
            )


def verify(journal: Journal) -> EgressSummary:
    """Follow the chain from its first row. Raises `EgressBrokenError` naming the first row that does not fit."""
    previous, num_entries, num_bytes = GENESIS, 0, 0
    with journal.transaction() as connection:
        for row in connection.execute("SELECT * FROM egress ORDER BY seq"):
            names = tuple(json.loads(row["names"]))
            facts = (row["at"], row["kind"], row["destination"], row["sha256"], row["num_bytes"])
            entry = EgressEntry(row["seq"], *facts, names, row["previous"])
            fits = entry.seq == num_entries + 1 and entry.previous == previous and entry.head == row["head"]
            if not fits:
                raise EgressBrokenError(seq=num_entries + 1)
            previous, num_entries, num_bytes = entry.head, num_entries + 1, num_bytes + entry.num_bytes
    return EgressSummary(num_entries, num_bytes, previous)


def field_names(value: object, prefix: str = "") -> tuple[str, ...]:
    """The dotted names of the fields of a JSON value that hold something; list positions are `[]`."""
    if value is None:
        return ()
    if isinstance(value, dict):
        found = [name for key, inner in value.items() for name in field_names(inner, f"{prefix}.{key}".lstrip("."))]
    elif isinstance(value, list):
        found = [name for inner in value for name in field_names(inner, f"{prefix}[]")]
    else:
        found = [prefix]
    return tuple(sorted(set(found)))


class GuardedExchange:
    """An `Exchange` that writes the ledger before it uploads, and refuses tensors nobody declared."""

    def __init__(self, inner: Exchange, ledger: EgressLedger) -> None:
        self._inner = inner
        self._ledger = ledger

    def put_tensors(self, source: Path, node_id: str, sha256: str, watch: TransferWatch) -> None:
        with TensorFile(source) as file:
            names = tuple(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in file.specs)
        self._ledger.append_file(tensor_path(node_id, sha256), sha256, source.stat().st_size, names)
        self._inner.put_tensors(source, node_id, sha256, watch)

    def put_manifest(self, raw: bytes, path: str) -> None:
        signed = parse_signed(raw)  # nothing but a manifest leaves through this door
        self._ledger.append("manifest", path, raw, field_names(signed.model_dump(mode="json")))
        self._inner.put_manifest(raw, path)

    def get_tensors(self, node_id: str, sha256: str, num_bytes: int, target: Path, watch: TransferWatch) -> None:
        self._inner.get_tensors(node_id, sha256, num_bytes, target, watch)

    def get_manifest(self, path: str, sha256: str) -> bytes:
        return self._inner.get_manifest(path, sha256)

    def remove(self, path: str) -> None:
        self._inner.remove(path)

    def list_own(self) -> tuple[str, ...]:
        return self._inner.list_own()

    def close(self) -> None:
        self._inner.close()


def check_declared(source: Path, declared: Collection[TensorSpec]) -> None:
    """Refuse to publish a file with a tensor that the round does not declare, whoever wrote it."""
    with TensorFile(source) as file:
        undeclared = sorted(spec.name for spec in set(file.specs) - set(declared))
    if undeclared:
        raise EgressRefusedError(reason=f"The file holds tensors the method does not share: {', '.join(undeclared)}.")
