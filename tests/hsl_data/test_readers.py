import csv
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hsl_data.cases import Case
from hsl_data.errors import SourceError, UnreadableImageError
from hsl_data.images import fitted
from hsl_data.readers import open_reader
from hsl_data.readers.npz import NpzContent, read_npz, write_npz
from tests.hsl_data.helpers import TASK, bind, picture, write_archive, write_folder


def read(path: Path, **binding: Any) -> dict[str, Case]:
    return {case.name: case for case in open_reader(bind(path, **binding)).cases()}


def facts(path: Path) -> str:
    return open_reader(bind(path)).facts()


def write_manifest(folder: Path, rows: list[list[str]], encoding: str = "utf-8") -> Path:
    path = folder / "cases.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def refused(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        list(open_reader(bind(path)).cases())
    assert path.name in caught.value.sentence()
    return caught.value.sentence()


# --- folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_gives_class_and_name_of_each_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 6)
    (root / "neg" / "sub").mkdir()
    Image.fromarray(picture(9)).save(root / "neg" / "sub" / "deep.png")
    cases = read(root)
    assert {name: case.site_class for name, case in cases.items()} == {
        "pos/000.png": "pos",
        "pos/003.png": "pos",
        "neg/001.png": "neg",
        "neg/002.png": "neg",
        "neg/004.png": "neg",
        "neg/005.png": "neg",
        "neg/sub/deep.png": "neg",
    }
    pixels, resized = fitted(cases["pos/003.png"].load, "pos/003.png", TASK)
    assert np.array_equal(pixels, picture(3)[None])
    assert not resized
    assert cases["pos/000.png"].group is None


def test_hidden_files_are_not_looked_at_and_strange_ones_are_told_of(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 3)
    for name in (".DS_Store", "._000.png", "Thumbs.db", "notes.txt"):
        (root / "pos" / name).write_bytes(b"x")
    cases = read(root)
    assert sorted(cases) == ["neg/001.png", "neg/002.png", "pos/000.png", "pos/notes.txt"]
    with pytest.raises(UnreadableImageError):
        fitted(cases["pos/notes.txt"].load, "notes", TASK)


def test_file_names_of_any_bytes_are_read(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 3)
    os.rename(os.fsencode(root / "pos" / "000.png"), os.fsencode(root / "pos") + b"/\xff\xfe.png")  # noqa: PTH104
    cases = read(root)
    name = "pos/\\xff\\xfe.png"
    assert name in cases
    assert fitted(cases[name].load, name, TASK)[0].shape == (1, 16, 16)
    assert len(facts(root)) == 64


def test_folders_that_are_no_source_say_why(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(SourceError, match="not a folder"):
        open_reader(bind(missing, reader="folder")).facts()
    (tmp_path / "empty").mkdir()
    assert "no images" in refused(tmp_path / "empty")
    root = write_folder(tmp_path / "images", 3)
    Image.fromarray(picture(1)).save(root / "loose.png")
    assert "1 file(s) lie outside any class folder" in refused(root)


def test_facts_of_a_folder_change_with_its_files(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 6)
    before = facts(root)
    assert facts(root) == before
    os.utime(root / "pos" / "000.png", ns=(1, 1))
    touched = facts(root)
    (root / "neg" / "001.png").unlink()
    assert len({before, touched, facts(root)}) == 3


# --- CSV manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_gives_label_patient_and_domain(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 3)
    rows = [
        ["label", "path", "patient", "domain", "age"],
        ["pos", "images/pos/000.png", "P 1", "hand", "50"],
        ["neg", " images/neg/001.png ", "", "", "60"],
    ]
    cases = read(write_manifest(tmp_path, rows))
    first, second = cases["images/pos/000.png"], cases["images/neg/001.png"]
    assert (first.site_class, first.group, first.domain) == ("pos", "P 1", "hand")
    assert (second.site_class, second.group, second.domain) == ("neg", None, None)
    assert np.array_equal(fitted(second.load, "x", TASK)[0], picture(1)[None])


def test_a_manifest_as_spreadsheets_save_it(tmp_path: Path) -> None:
    """Byte order mark, CRLF, a line separator inside quotes, no patient column."""
    text = 'path,label\r\nimages/pos/000.png,"severe\u2028break"\r\n'
    (tmp_path / "cases.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read(tmp_path / "cases.csv")["images/pos/000.png"].site_class == "severe\u2028break"


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    write_folder(tmp_path / "images", 3)
    (tmp_path / "lists").mkdir()
    path = write_manifest(tmp_path / "lists", [["path", "label"], ["pos/000.png", "pos"]])
    case = read(path, image_root=tmp_path / "images")["pos/000.png"]
    assert fitted(case.load, "x", TASK)[0].shape == (1, 16, 16)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "..\\secret.png", "a\0b"])
def test_a_path_that_leaves_the_folder_is_unreadable(tmp_path: Path, name: str) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "secret.png")
    (tmp_path / "lists").mkdir()
    path = write_manifest(tmp_path / "lists", [["path", "label"], [name, "pos"]])
    (case,) = read(path).values()
    with pytest.raises(UnreadableImageError, match="leaves the manifest's folder"):
        fitted(case.load, case.name, TASK)
    assert len(facts(path)) == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "label, path missing"),
        (b"path;label\na.png;pos\n", "label, path missing"),
        (b"file,label\na.png,pos\n", "path missing"),
        (b"path,label\n", "lists no images"),
        (b"path,label\na.png\n", "line 2 lacks"),
        (b"path,label\na.png,pos\n,neg\n", "line 3 lacks"),
        (b"path,label\na,b.png,pos\n", "line 2 lacks"),
        (b'path,label\n"a.png,pos\n', "not valid CSV"),
        (b"path,label\n\xff\xfe.png,pos\n", "not UTF-8"),
    ],
)
def test_manifests_that_are_none_say_why(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    assert said in refused(path)


def test_a_missing_manifest_says_so(tmp_path: Path) -> None:
    assert "cannot be opened" in refused(tmp_path / "cases.csv")


def test_facts_of_a_manifest_change_with_it_and_with_its_images(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    path = write_manifest(tmp_path, [["path", "label"], ["pos/000.png", "pos"], ["gone.png", "pos"]])
    before = facts(path)
    os.utime(tmp_path / "pos" / "000.png", ns=(1, 1))
    touched = facts(path)
    write_manifest(tmp_path, [["path", "label"], ["pos/000.png", "neg"], ["gone.png", "pos"]])
    assert len({before, touched, facts(path)}) == 3


# --- npz -------------------------------------------------------------------------------------------------------------


def test_a_packaged_archive_gives_all_it_knows(tmp_path: Path) -> None:
    path = write_archive(
        tmp_path / "a.npz",
        6,
        domain=np.array([0, 0, 1, 1, 1, 0], dtype=np.uint8),
        domain_names=np.array(["hand", "leg"]),
        group=np.array([7, 7, 8, 9, 10, 11], dtype=np.int32),
        split=np.array([0, 0, 1, 1, 2, 2]),
        birads=np.array([None] * 6),  # a column nobody asked for, of pickled objects at that: never opened
    )
    cases = read(path)
    third = cases["img-0002"]
    assert (third.site_class, third.domain, third.group, third.source_split) == ("neg", "leg", "8", "1")
    assert np.array_equal(fitted(third.load, "x", TASK)[0], picture(2)[None])


def test_what_an_archive_does_not_know_is_none(tmp_path: Path) -> None:
    case = read(write_archive(tmp_path / "a.npz", 3, names=None, label_names=None))["000001"]
    assert (case.site_class, case.domain, case.group, case.source_split) == ("0", None, None, None)


def test_the_medmnist_layout(tmp_path: Path) -> None:
    parts = {"train": 5, "val": 2, "test": 3}
    arrays = {}
    for part, num in parts.items():
        arrays[f"{part}_images"] = np.stack([picture(i + len(arrays)) for i in range(num)])
        arrays[f"{part}_labels"] = (np.arange(num) % 2).astype(np.uint8)[:, None]
    np.savez(tmp_path / "m.npz", **arrays)
    cases = read(tmp_path / "m.npz")
    assert len(cases) == 10
    assert (cases["val-000001"].site_class, cases["val-000001"].source_split) == ("1", "1")
    assert np.array_equal(fitted(cases["val-000001"].load, "x", TASK)[0][0], arrays["val_images"][1])


def test_colour_archives_are_read(tmp_path: Path) -> None:
    colour = np.stack([np.stack([picture(3 * i + c) for c in range(3)], axis=2) for i in range(4)])
    labels = np.array([0, 1, 0, 1])
    case = read(write_archive(tmp_path / "a.npz", 4, images=colour, labels=labels))["img-0002"]
    pixels, _ = fitted(case.load, "x", TASK.model_copy(update={"channels": 3}))
    assert np.array_equal(pixels, colour[2].transpose(2, 0, 1))
    grey = write_archive(tmp_path / "b.npz", 4, images=colour[..., :1])
    assert np.array_equal(fitted(read(grey)["img-0001"].load, "x", TASK)[0][0], colour[1, :, :, 0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": np.array([object()] * 6)}, "pickled objects"),
        ({"labels": np.array(["a", None] * 3, dtype=object)}, "pickled objects"),
        ({"label_names": np.array(["neg", None], dtype=object)}, "pickled objects"),
        ({"images": None}, "neither images and labels nor"),
        ({"labels": None}, "neither images and labels nor"),
        ({"images": np.zeros((6, 16, 16), dtype=np.float32)}, "must be uint8"),
        ({"images": np.zeros((6, 256), dtype=np.uint8)}, "must be uint8"),
        ({"images": np.zeros((6, 16, 16, 4), dtype=np.uint8)}, "must be uint8"),
        ({"images": np.zeros((0, 16, 16), dtype=np.uint8)}, "no images"),
        ({"labels": np.zeros(5, dtype=np.uint8)}, "labels must be 6 integers"),
        ({"labels": np.zeros((6, 14), dtype=np.uint8)}, "labels must be 6 integers"),
        ({"labels": np.zeros(6)}, "labels must be 6 integers"),
        ({"labels": np.array([0, 1, 2, 0, 1, 0])}, "labels point outside the 2 names"),
        ({"labels": np.array([0, 1, -1, 0, 1, 0])}, "labels point outside the 2 names"),
        ({"label_names": np.array(["same", "same"])}, "label_names holds a name twice"),
        ({"label_names": np.array([["neg", "pos"]])}, "label_names must be"),
        ({"domain": np.zeros(6, dtype=int), "domain_names": np.array([1.5])}, "domain_names must be"),
        ({"domain": np.ones(6, dtype=int), "domain_names": np.array(["hand"])}, "domain point outside the 1 names"),
        ({"group": np.zeros(6)}, "group must be 6 numbers or texts"),
        ({"group": np.zeros(5, dtype=int)}, "group must be 6 numbers or texts"),
        ({"names": np.array(["a\0b\n"] * 6)}, "names holds characters"),
    ],
)
def test_archives_that_are_none_say_why(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(write_archive(tmp_path / "a.npz", 6, **changes))


def test_files_that_are_no_archives_say_why(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    assert "no such file" in refused(path)
    for content in (b"", b"\x80\x04\x95pickle", b"PK\x03\x04 cut short", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        assert ".npz archive" in refused(path) or "pickled" in refused(path)
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(path)
    assert "single array" in refused(path)


def test_a_damaged_archive_says_so(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 6)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 0xFF
    path.write_bytes(raw)
    assert "damaged" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shap")
        archive.writestr("labels.npy", b"")
    assert "damaged" in refused(path)


def test_parts_of_different_size_are_refused(tmp_path: Path) -> None:
    arrays = {
        "train_images": np.zeros((2, 8, 8), dtype=np.uint8),
        "train_labels": np.zeros((2, 1), dtype=np.uint8),
        "val_images": np.zeros((2, 9, 9), dtype=np.uint8),
        "val_labels": np.zeros((2, 1), dtype=np.uint8),
    }
    np.savez(tmp_path / "m.npz", **arrays)
    assert "different shapes" in refused(tmp_path / "m.npz")


def test_what_is_written_reads_back_with_equal_bytes(tmp_path: Path) -> None:
    content = NpzContent(
        images=np.stack([picture(i) for i in range(4)]),
        classes=("neg", "pos"),
        labels=("pos", "neg", "neg", "pos"),
        domains=("leg", "hand", "leg", "leg"),
        groups=("1", "2", "2", "3"),
        names=("a", "b", "c", "d"),
        splits=("0", "0", "1", "2"),
    )
    write_npz(tmp_path / "a.npz", content)
    write_npz(tmp_path / "b.npz", content)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    found = read_npz(tmp_path / "a.npz")
    assert np.array_equal(found.images, content.images)
    assert (found.labels, found.domains, found.groups, found.names, found.splits) == (
        content.labels,
        content.domains,
        content.groups,
        content.names,
        content.splits,
    )
    assert found.subset([3, 1]).names == ("d", "b")
