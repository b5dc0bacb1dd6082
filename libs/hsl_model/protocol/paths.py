"""The hub's layout: build, parse, validate. No folder exists below a node's own.

/nodes/<node_id>/<sha256>.safetensors                    an update or a fused model, named by its content
/nodes/<node_id>/<sha256>.part                           the same while it is being written
/nodes/<node_id>/<run_id>.round-0007.<sha256>.json       a signed manifest; <sha256> is the update's digest
"""

import re
from dataclasses import dataclass

from hsl_model.protocol.errors import RemotePathError

NODES = "/nodes"
COORDINATOR_USER = "hsl.coordinator"  # its name on a hub that has users; the dot keeps it apart from every node
NODE_ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$"
RUN_ID_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
_MANIFEST = re.compile(r"^(?P<run_id>[a-z0-9-]+)\.round-(?P<round_number>\d{4,6})\.(?P<sha256>[0-9a-f]{64})\.json$")
_TENSORS = re.compile(r"^(?P<sha256>[0-9a-f]{64})\.(?P<suffix>safetensors|part)$")


@dataclass(frozen=True)
class TensorPath:
    """A parsed `/nodes/<node_id>/<sha256>.safetensors` or `.part`."""

    node_id: str
    sha256: str
    is_part: bool


@dataclass(frozen=True)
class ManifestPath:
    """A parsed `/nodes/<node_id>/<run_id>.round-0007.<sha256>.json`."""

    node_id: str
    run_id: str
    round_number: int
    sha256: str


def node_folder(node_id: str) -> str:
    return f"{NODES}/{_checked(node_id, NODE_ID_PATTERN, 'node id')}"


def tensor_path(node_id: str, sha256: str) -> str:
    return f"{node_folder(node_id)}/{_checked(sha256, SHA256_PATTERN, 'SHA-256')}.safetensors"


def part_path(node_id: str, sha256: str) -> str:
    return f"{node_folder(node_id)}/{_checked(sha256, SHA256_PATTERN, 'SHA-256')}.part"


def manifest_path(node_id: str, run_id: str, round_number: int, sha256: str) -> str:
    _checked(run_id, RUN_ID_PATTERN, "run id")
    _checked(sha256, SHA256_PATTERN, "SHA-256")
    if not 0 <= round_number <= 999_999:
        raise RemotePathError(path=str(round_number), reason="round numbers go from 0 to 999999")
    return f"{node_folder(node_id)}/{run_id}.round-{round_number:04d}.{sha256}.json"


def parse(path: str) -> TensorPath | ManifestPath:
    """Read a remote path back. Raises `RemotePathError` for anything that `tensor_path`, `part_path` and
    `manifest_path` would not have built: other folders, `..`, empty segments, upper case, control characters."""
    segments = path.split("/")
    if len(segments) != 4 or segments[0] != "" or segments[1] != "nodes":
        raise RemotePathError(path=path, reason="expected /nodes/<node id>/<file>")
    node_id, name = segments[2], segments[3]
    _checked(node_id, NODE_ID_PATTERN, "node id")
    if found := _TENSORS.fullmatch(name):
        return TensorPath(node_id=node_id, sha256=found["sha256"], is_part=found["suffix"] == "part")
    if found := _MANIFEST.fullmatch(name):
        parsed = ManifestPath(node_id, found["run_id"], int(found["round_number"]), found["sha256"])
        if manifest_path(parsed.node_id, parsed.run_id, parsed.round_number, parsed.sha256) == path:
            return parsed
    raise RemotePathError(path=path, reason="the file name is neither a tensor file nor a manifest")


def _checked(value: str, pattern: str, what: str) -> str:
    if not re.fullmatch(pattern, value):
        raise RemotePathError(path=value, reason=f"not a valid {what} (expected {pattern})")
    return value
