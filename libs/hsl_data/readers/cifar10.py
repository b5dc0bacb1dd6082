"""CIFAR-10, python version: `<root>/{data_batch_1..5,test_batch,batches.meta}`, pickles of Python 2.

A pickle can run code, so these are read by an unpickler that makes numpy arrays and nothing else. Classes by name
(airplane, automobile, …).
"""

import io
import pickle  # noqa: TID251 - the data set is published so; `_OnlyArrays` below allows arrays alone
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from hsl_data.cases import Case
from hsl_data.errors import SourceError
from hsl_data.readers.files import files_digest

_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_META = "batches.meta"
_SIDE = 32

Images = npt.NDArray[np.uint8]  # (N, 32, 32, 3)


def _reconstruct(kind: type, shape: tuple[int, ...], dtype: bytes) -> npt.NDArray[Any]:
    """What numpy's own function of this name does when an array is unpickled; its state comes afterwards."""
    array: npt.NDArray[Any] = np.ndarray.__new__(kind, shape, dtype.decode("ascii"))
    return array


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _OnlyArrays(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name}")
        return _ALLOWED[module_name, global_name]


class Cifar10Reader:
    def __init__(self, root: Path) -> None:
        self._root = root

    def facts(self) -> str:
        return files_digest(self._root, (*_BATCHES, _META))

    def cases(self) -> Iterator[Case]:
        names = [name.decode() for name in self._read(_META)[b"label_names"]]
        for batch in _BATCHES:
            found = self._read(batch)
            images, labels = self._checked(batch, found, len(names))
            split = "test" if batch == "test_batch" else "train"
            for at, label in enumerate(labels):
                load = partial(Image.fromarray, images[at])
                yield Case(f"{batch}/{at:05d}", names[label], load, source_split=split)

    def skipped(self) -> Mapping[str, int]:
        return {}

    def _read(self, name: str) -> dict[bytes, Any]:
        path = self._root / name
        try:
            found = _OnlyArrays(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        except OSError as error:
            raise SourceError(path=path, reason="it cannot be opened.") from error
        except pickle.UnpicklingError as error:
            reason = "it is cut off, or holds more than arrays and was not loaded."
            raise SourceError(path=path, reason=reason) from error
        except (EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError, UnicodeDecodeError) as error:
            raise SourceError(path=path, reason="it is not a file of CIFAR-10, or is cut off.") from error
        if not isinstance(found, dict):
            raise SourceError(path=path, reason="it is not a file of CIFAR-10.")
        return found

    def _checked(self, batch: str, found: dict[bytes, Any], num_classes: int) -> tuple[Images, list[int]]:
        data, labels = found.get(b"data"), found.get(b"labels")
        good = (
            isinstance(data, np.ndarray)
            and data.dtype == np.uint8
            and isinstance(labels, list)
            and data.shape == (len(labels), 3 * _SIDE * _SIDE)
            and all(isinstance(label, int) and 0 <= label < num_classes for label in labels)
        )
        if not good:
            reason = "data must be uint8 (N, 3072) and labels N numbers of known classes."
            raise SourceError(path=self._root / batch, reason=reason)
        images = np.asarray(data).reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(images), list(labels or ())
