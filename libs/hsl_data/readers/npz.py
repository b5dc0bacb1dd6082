"""NumPy archives in two layouts: packaged (`images, labels, label_names, …`) and MedMNIST (`train_images, …`).

| key                          | type            | meaning                                                        |
|------------------------------|-----------------|----------------------------------------------------------------|
| `images`                     | uint8 (N, H, W) or (N, H, W, 3) |                                                |
| `labels`, `label_names`      | integers (N,), text (K,)  | without names the class is the number as text        |
| `domain`, `domain_names`     | integers (N,), text (D,)  | optional                                             |
| `group`                      | integers or text (N,)     | optional: patient                                    |
| `names`, `split`             | text (N,), integers (N,)  | optional                                             |

Arrays of Python objects need pickle and are refused.
"""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from hsl_data.cases import Case
from hsl_data.errors import SourceError
from hsl_model.checkpoint import sha256_file
from hsl_model.durable import write_bytes

Item = TypeVar("Item")
Arrays = dict[str, npt.NDArray[np.generic]]

_MEDMNIST_PARTS = ("train", "val", "test")
_PACKAGED = ("labels", "label_names", "domain", "domain_names", "group", "names", "split")
_READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class NpzContent:
    """An archive in one layout, checked: lists have N entries, labels and domains point into their names."""

    images: npt.NDArray[np.uint8]
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    domains: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    names: tuple[str, ...]
    splits: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int]) -> "NpzContent":
        def only(values: tuple[Item, ...]) -> tuple[Item, ...]:
            return tuple(values[index] for index in indices)

        return NpzContent(
            images=self.images[np.array(indices, dtype=np.intp)],
            classes=self.classes,
            labels=only(self.labels),
            domains=only(self.domains),
            groups=only(self.groups),
            names=only(self.names),
            splits=only(self.splits),
        )


class NpzReader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def facts(self) -> str:
        if not self._path.is_file():
            raise SourceError(path=self._path, reason="there is no such file.")
        return sha256_file(self._path)

    def cases(self) -> Iterator[Case]:
        content = read_npz(self._path)
        for index, name in enumerate(content.names):
            yield Case(
                name=name,
                site_class=content.labels[index],
                load=partial(Image.fromarray, content.images[index]),
                group=content.groups[index],
                domain=content.domains[index],
                source_split=content.splits[index],
            )

    def skipped(self) -> Mapping[str, int]:
        return {}


def read_npz(path: Path) -> NpzContent:
    """The whole archive in memory, from whichever layout it has; anything wrong with it is a `SourceError`."""
    arrays = _load(path)
    try:
        return _content(arrays)
    except ValueError as error:
        raise SourceError(path=path, reason=str(error)) from error


def join_npz(output: Path, sources: Mapping[str, Path]) -> None:
    """One packaged archive of several of the same classes and sizes; the source's name becomes the domain."""
    parts = {name: read_npz(path) for name, path in sources.items()}
    first = next(iter(parts.values()))
    whole = NpzContent(
        images=np.concatenate([part.images for part in parts.values()]),
        classes=first.classes,
        labels=tuple(label for part in parts.values() for label in part.labels),
        domains=tuple(name for name, part in parts.items() for _ in range(len(part))),
        groups=tuple(
            None if group is None else f"{name} {group}" for name, part in parts.items() for group in part.groups
        ),
        names=tuple(f"{name}/{one}" for name, part in parts.items() for one in part.names),
        splits=tuple(split for part in parts.values() for split in part.splits),
    )
    write_npz(output, whole)


def write_npz(path: Path, content: NpzContent) -> None:
    """A packaged archive, durably. Equal contents give equal bytes: the time of writing does not enter."""
    arrays: Arrays = {
        "images": content.images,
        "labels": np.array([content.classes.index(label) for label in content.labels], dtype=np.uint8),
        "label_names": np.array(content.classes),
        "names": np.array(content.names),
    }
    domains = sorted({domain for domain in content.domains if domain is not None})
    if domains:
        arrays["domain"] = np.array([domains.index(domain or "") for domain in content.domains], dtype=np.uint8)
        arrays["domain_names"] = np.array(domains)
    for key, values in (("group", content.groups), ("split", content.splits)):
        if None not in values:
            arrays[key] = np.array(values)
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    write_bytes(path, file.getvalue())


def _load(path: Path) -> Arrays:
    wanted = {"images", *_PACKAGED, *(f"{part}_{key}" for part in _MEDMNIST_PARTS for key in ("images", "labels"))}
    try:
        with path.open("rb") as file:
            if file.read(4)[:2] not in (b"PK", b"\x93N"):  # numpy would call every other file a pickle
                raise SourceError(path=path, reason="it is not an .npz archive.")
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise SourceError(path=path, reason="it is a single array, not an .npz archive.")
            with loaded:
                return {key: loaded[key] for key in loaded.files if key in wanted}
    except FileNotFoundError as error:
        raise SourceError(path=path, reason="there is no such file.") from error
    except _READ_ERRORS as error:
        if "allow_pickle" in str(error):
            raise SourceError(path=path, reason="it holds pickled objects, which are never read.") from error
        raise SourceError(path=path, reason="it is damaged or not an .npz archive.") from error


def _content(arrays: Arrays) -> NpzContent:
    if "images" in arrays and "labels" in arrays:
        return _packaged(arrays)
    if "train_images" in arrays and "train_labels" in arrays:
        return _packaged(_joined(arrays))
    found = ", ".join(sorted(arrays)) or "none of the known keys"
    raise ValueError(f"it has neither images and labels nor train_images and train_labels, but {found}.")


def _joined(arrays: Arrays) -> Arrays:
    """MedMNIST's three parts as one packaged archive; a name tells part and position."""
    parts = [part for part in _MEDMNIST_PARTS if f"{part}_images" in arrays and f"{part}_labels" in arrays]
    counts = [len(np.atleast_1d(arrays[f"{part}_labels"])) for part in parts]
    try:
        return {
            "images": np.concatenate([arrays[f"{part}_images"] for part in parts]),
            "labels": np.concatenate([arrays[f"{part}_labels"] for part in parts]),
            "names": np.array([f"{part}-{i:06d}" for part, n in zip(parts, counts, strict=True) for i in range(n)]),
            "split": np.repeat(np.array([_MEDMNIST_PARTS.index(part) for part in parts]), counts),
        }
    except ValueError as error:
        raise ValueError("its train, val and test parts have different shapes.") from error


def _packaged(arrays: Arrays) -> NpzContent:
    images = arrays["images"]
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise ValueError(f"images must be uint8 (N, H, W) or (N, H, W, 3), not {images.dtype} {images.shape}.")
    if 0 in images.shape:
        raise ValueError("it holds no images.")
    num = len(images)
    labels, classes = _named(arrays, "labels", "label_names", num)
    return NpzContent(
        images=images.astype(np.uint8, copy=False),
        classes=classes,
        labels=labels,
        domains=_named(arrays, "domain", "domain_names", num)[0] if "domain" in arrays else (None,) * num,
        groups=_texts(arrays, "group", num) or (None,) * num,
        names=_texts(arrays, "names", num) or tuple(f"{index:06d}" for index in range(num)),
        splits=_texts(arrays, "split", num) or (None,) * num,
    )


def _named(arrays: Arrays, key: str, names_key: str, num: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Each entry by name, and all the names. Where the archive has none, the numbers themselves are the names."""
    values = _list(arrays, key, num)
    if names_key not in arrays:
        return tuple(map(str, values)), tuple(map(str, np.unique(values)))
    names = _names(arrays, names_key)
    if values.min() < 0 or values.max() >= len(names):
        raise ValueError(f"{key} point outside the {len(names)} names they have.")
    return tuple(names[value] for value in values), names


def _list(arrays: Arrays, key: str, num: int) -> npt.NDArray[np.int64]:
    """(N,) or (N, 1) integers. Several labels an image (N, K) fit no two-class task."""
    array = arrays[key]
    if array.shape not in ((num,), (num, 1)) or array.dtype.kind not in "ui":
        raise ValueError(f"{key} must be {num} integers, one an image, not {array.dtype} {array.shape}.")
    return array.reshape(num).astype(np.int64)


def _names(arrays: Arrays, key: str) -> tuple[str, ...]:
    if arrays[key].ndim != 1 or arrays[key].dtype.kind != "U":
        raise ValueError(f"{key} must be a list of text, not {arrays[key].dtype} {arrays[key].shape}.")
    names = _texts(arrays, key, len(arrays[key])) or ()
    if len(set(names)) != len(names):
        raise ValueError(f"{key} holds a name twice.")
    return names


def _texts(arrays: Arrays, key: str, num: int) -> tuple[str, ...] | None:
    if key not in arrays:
        return None
    array = arrays[key]
    if array.shape != (num,) or array.dtype.kind not in "uiU":
        raise ValueError(f"{key} must be {num} numbers or texts, one an image, not {array.dtype} {array.shape}.")
    texts = tuple(str(value) for value in array)
    if not all(text.isprintable() for text in texts):
        raise ValueError(f"{key} holds characters that cannot be printed.")
    return texts
