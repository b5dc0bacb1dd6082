"""Tensor files: safetensors read and written in numpy, tensor by tensor or piece by piece.

Equal tensors give equal files, byte for byte (`tensor_header` has the one form we write), and nothing about a file is
believed before it is checked. A pickle cannot pass, whatever its name.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hsl_model import durable
from hsl_model.protocol.manifest import TensorSpec
from hsl_model.tensor_header import (
    DTYPES,
    Place,
    checked_spec,
    header_bytes,
    layout,
    num_elements,
    read_header,
    refused,
)

Array = npt.NDArray[Any]

PIECE_ELEMENTS = 1 << 17  # pieces of large tensors stay in the processor's cache


@dataclass(frozen=True)
class FileFacts:
    path: Path
    sha256: str
    num_bytes: int


def pieces(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """(first element, number of elements) of each piece in which a tensor is streamed."""
    total = num_elements(spec)
    for first in range(0, total, PIECE_ELEMENTS):
        yield first, min(PIECE_ELEMENTS, total - first)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spec_of(name: str, values: Array, path: Path = Path("(memory)")) -> TensorSpec:
    """What a manifest says of an array. Raises `CheckpointError` for a name or type that is not exchanged."""
    for word, dtype in DTYPES.items():
        if dtype == values.dtype.newbyteorder("<"):
            return checked_spec(name, word, values.shape, path)
    raise refused(path, f"tensor {name} has type {values.dtype}, which is not exchanged")


def check_specs(found: Sequence[TensorSpec], expected: Sequence[TensorSpec], path: Path) -> None:
    """Raise `CheckpointError`, naming the first offending tensor, unless both hold the same names, shapes and types."""
    held = {spec.name: spec for spec in found}
    wanted = {spec.name: spec for spec in expected}
    if missing := sorted(wanted.keys() - held.keys()):
        raise refused(path, f"tensor {missing[0]} is missing ({len(missing)} missing in all)")
    if extra := sorted(held.keys() - wanted.keys()):
        raise refused(path, f"tensor {extra[0]} does not belong there ({len(extra)} too many in all)")
    for name, spec in sorted(wanted.items()):
        if held[name].shape != spec.shape:
            raise refused(path, f"tensor {name} has shape {held[name].shape}, expected {spec.shape}")
        if held[name].dtype != spec.dtype:
            raise refused(path, f"tensor {name} has type {held[name].dtype}, expected {spec.dtype}")


class TensorFile:
    """A tensor file open for reading. `specs` are sorted by name. Raises `CheckpointError` if it is not acceptable.

    Never maps the file into memory: a large file would count as resident, and a file cut short while it is read would
    kill the process instead of raising.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self._data_start, places = read_header(self._file, path)
        except BaseException:
            self._file.close()
            raise
        self._places = {place.spec.name: place for place in places}
        self.specs: tuple[TensorSpec, ...] = tuple(self._places[name].spec for name in sorted(self._places))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, name: str) -> Array:
        spec = self._place(name).spec
        values = np.empty(num_elements(spec), DTYPES[spec.dtype])
        self.read_into(name, 0, values)
        return values.reshape(spec.shape)

    def read_into(self, name: str, first: int, target: Array) -> None:
        """Fill the flat, contiguous `target` from element `first` of the tensor on."""
        place = self._place(name)
        begin = place.begin + first * target.itemsize
        if target.dtype != DTYPES[place.spec.dtype] or begin + target.nbytes > place.end:
            raise ValueError(f"{target.size} {target.dtype} from element {first} on do not fit {place.spec}")
        self._file.seek(self._data_start + begin)
        view = target.view(np.uint8).data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise refused(self.path, f"it ends inside tensor {name}; transfer it again")
            view = view[count:]

    def check_finite(self) -> None:
        """Raise `CheckpointError` naming the first tensor that holds NaN or an infinity. Reads the file in pieces."""
        buffer = np.empty(PIECE_ELEMENTS * 8, np.uint8)
        for spec in self.specs:
            dtype = DTYPES[spec.dtype]
            if dtype.kind != "f":
                continue
            for first, count in pieces(spec):
                values = buffer[: count * dtype.itemsize].view(dtype)
                self.read_into(spec.name, first, values)
                if not np.isfinite(values).all():
                    raise refused(self.path, f"tensor {spec.name} holds NaN or infinity")

    def _place(self, name: str) -> Place:
        if name not in self._places:
            raise refused(self.path, f"tensor {name} is missing")
        return self._places[name]


def check_finite(path: Path) -> None:
    with TensorFile(path) as file:
        file.check_finite()


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors by name, sorted. Each is its own writable memory."""
    with TensorFile(path) as file:
        return {spec.name: file.read(spec.name) for spec in file.specs}


class TensorsDigest:
    """The fused digest of design 4.10, fed from front to back, tensor by tensor or piece by piece.

    It is the SHA-256 of the tensors' one canonical form: names, types and shapes first, then all little-endian bytes.
    It speaks of values only: however the tensors lie in a file they were read from, their digest is the same. Our own
    files *are* that form, so a writer hashes once, and the digest of such a file's bytes is the digest of its tensors.
    """

    def __init__(self, specs: Sequence[TensorSpec], path: Path = Path("(memory)")) -> None:
        places = layout(specs, path)
        self.specs: tuple[TensorSpec, ...] = tuple(place.spec for place in places)
        self._places = {place.spec.name: place for place in places}
        self._done = 0  # bytes of tensors so far
        self._total = places[-1].end if places else 0
        self.header = header_bytes(places)
        self._sha256 = hashlib.sha256(self.header)

    def update(self, name: str, values: Array) -> memoryview:
        """Take the next elements of a tensor, flattened in C order, and give their little-endian bytes back."""
        place = self._places.get(name)
        if place is None or not place.begin <= self._done <= place.end:
            raise ValueError(f"tensor {name} is not due; give the tensors in the order of `specs`")
        dtype = DTYPES[place.spec.dtype]
        if values.dtype.newbyteorder("<") != dtype or self._done + values.nbytes > place.end:
            raise ValueError(f"{values.shape} {values.dtype} were given where {place.spec} is due")
        raw = np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data
        self._sha256.update(raw)
        self._done += len(raw)
        return raw

    @property
    def num_bytes(self) -> int:
        """Of the canonical form, so far."""
        return len(self.header) + self._done

    @property
    def total_bytes(self) -> int:
        """Of the canonical form, once all tensors are given."""
        return len(self.header) + self._total

    def hexdigest(self) -> str:
        if self._done != self._total:
            raise ValueError(f"tensors are incomplete: {self._done} of {self._total} bytes were given")
        return self._sha256.hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Array]]) -> str:
    """The fused digest of tensors in memory, given in any order."""
    held = dict(tensors)
    digest = TensorsDigest([spec_of(name, values) for name, values in held.items()])
    for spec in digest.specs:
        digest.update(spec.name, held[spec.name])
    return digest.hexdigest()


class TensorFileWriter:
    """Writes a tensor file from front to back; `specs` gives the order in which the tensors are due.

    The file appears under its name only in `finish`, durably; leaving the block before that leaves nothing behind.
    Raises `DiskFullError` where there is no room for all of it, before it begins or when the disk fills up meanwhile.
    """

    def __init__(self, path: Path, specs: Sequence[TensorSpec]) -> None:
        self._path = path
        self._digest = TensorsDigest(specs, path)
        self.specs = self._digest.specs
        durable.check_room(path.parent, self._digest.total_bytes)
        self._temporary = path.with_name(path.name + ".tmp")
        self._file = self._temporary.open("wb")
        self._file.write(self._digest.header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._room():
                self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, name: str, values: Array) -> None:
        """The next tensor, or the next elements of one (flattened in C order)."""
        with self._room():
            self._file.write(self._digest.update(name, values))

    def finish(self) -> FileFacts:
        sha256 = self._digest.hexdigest()
        with self._room():
            self._file.close()
            durable.publish(self._temporary, self._path)
        return FileFacts(self._path, sha256, self._digest.num_bytes)

    def _room(self) -> AbstractContextManager[None]:
        return durable.told_when_full(self._path.parent, self._digest.total_bytes - self._digest.num_bytes)


def write_tensors(path: Path, tensors: Mapping[str, Array]) -> FileFacts:
    """Write all tensors; equal tensors give equal bytes, whatever the order of the mapping."""
    with TensorFileWriter(path, [spec_of(name, values, path) for name, values in tensors.items()]) as writer:
        for spec in writer.specs:
            writer.write(spec.name, tensors[spec.name])
        return writer.finish()
