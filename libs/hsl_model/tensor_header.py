"""The header of a tensor file (safetensors): built in one form only, and read with trust in nothing.

A file is `<u64 header length> <JSON header> <bytes of all tensors>`. The form we write: header padded to 8 bytes, no
metadata, larger elements first and then by name, so that every tensor starts at a multiple of its element size: what
the safetensors library writes, too. We read any valid safetensors file, but the header is bounded before it is read,
and no tensor is allocated before all names, shapes, types and offsets have proved to fill the file exactly.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydantic import ValidationError

from hsl_model.protocol.errors import CheckpointError
from hsl_model.protocol.manifest import TensorSpec

DTYPES: Mapping[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
"""safetensors' words that numpy can compute with. BF16 is refused: no method shares it."""

MAX_HEADER_BYTES = 2 << 20  # a forged length cannot make us allocate more; 5,000 tensors with long names need 1.5 MB
MAX_TENSORS = 5000  # as many as a manifest may name
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save's zip, and pickle protocols


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: bytes [begin, end) of the data that follow the header."""

    spec: TensorSpec
    begin: int
    end: int


def refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(path=path.name, reason=reason)


def num_elements(spec: TensorSpec) -> int:
    return math.prod(spec.shape)


def num_bytes(spec: TensorSpec) -> int:
    return num_elements(spec) * DTYPES[spec.dtype].itemsize


def checked_spec(name: str, dtype: object, shape: object, path: Path) -> TensorSpec:
    """The spec, or `CheckpointError` where the name, the type or the shape is none."""
    try:
        spec = TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape}, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0] if first["loc"] else "entry"
        raise refused(path, f"tensor {name[:80]!r}: {field}: {first['msg']}") from error
    if spec.dtype not in DTYPES:
        raise refused(path, f"tensor {name} has type {spec.dtype}, which is not exchanged")
    return spec


def layout(specs: Sequence[TensorSpec], path: Path) -> tuple[Place, ...]:
    """The places of the one form we write, in the order of the file."""
    if len({spec.name for spec in specs}) != len(specs):
        raise refused(path, "a tensor is named twice")
    if len(specs) > MAX_TENSORS:
        raise refused(path, f"{len(specs)} tensors; at most {MAX_TENSORS} are exchanged")
    places: list[Place] = []
    end = 0
    for spec in sorted(specs, key=lambda spec: (-DTYPES[spec.dtype].itemsize, spec.name)):
        begin, end = end, end + num_bytes(spec)
        places.append(Place(spec, begin, end))
    return tuple(places)


def header_bytes(places: Sequence[Place]) -> bytes:
    entries = {
        place.spec.name: {
            "dtype": place.spec.dtype,
            "shape": place.spec.shape,
            "data_offsets": (place.begin, place.end),
        }
        for place in places
    }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(file: BinaryIO, path: Path) -> tuple[int, tuple[Place, ...]]:
    """Where the data begin, and the places of all tensors in the order of the file; everything checked."""
    file_bytes = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    # a header of 0x0480 bytes begins like a pickle, too; but no pickle has a plausible length
    if start.startswith(_PICKLES) and length > min(MAX_HEADER_BYTES, file_bytes - 8):
        raise refused(path, "it is a pickle (a PyTorch file?), which may run code; only safetensors are read")
    if len(start) < 8 or length > file_bytes - 8:
        raise refused(path, "it is cut short or no safetensors file; transfer it again")
    if length > MAX_HEADER_BYTES:
        raise refused(path, f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are read")
    places = sorted(_parse(file.read(length), path), key=lambda place: (place.begin, place.end))
    end = 0
    for place in places:
        if place.begin != end:
            raise refused(path, f"tensor {place.spec.name} overlaps another or leaves a hole before it")
        end = place.end
    if 8 + length + end != file_bytes:
        raise refused(path, f"it has {file_bytes} bytes, but its header describes {8 + length + end}")
    return 8 + length, tuple(places)


def _parse(text: bytes, path: Path) -> list[Place]:
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise refused(path, f"its header is not acceptable JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise refused(path, "its header is no JSON object")
    header.pop("__metadata__", None)  # other programs write some; we neither read nor pass it on
    if len(header) > MAX_TENSORS:
        raise refused(path, f"{len(header)} tensors; at most {MAX_TENSORS} are exchanged")
    return [_place(name, entry, path) for name, entry in header.items()]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, unless a key stands twice: two readers could then see two different files."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _place(name: str, entry: object, path: Path) -> Place:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refused(path, f"the entry of tensor {name[:80]!r} is not dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    spec = checked_spec(name, entry["dtype"], tuple(shape) if isinstance(shape, list) else shape, path)
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
        raise refused(path, f"tensor {name}: data_offsets are not two integers")
    begin, end = offsets
    if begin < 0 or end - begin != num_bytes(spec):
        raise refused(path, f"tensor {name}: data_offsets {begin}..{end} do not fit its shape and type")
    return Place(spec, begin, end)
