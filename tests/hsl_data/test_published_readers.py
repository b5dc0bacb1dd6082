"""The layouts of published data sets, each made small: what is read, how it is grouped, what is skipped and why."""

import csv
import io
import pickle  # noqa: TID251 - CIFAR-10 is published so
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from hsl_data.cases import Case, Reader
from hsl_data.errors import SourceError, UnreadableImageError
from hsl_data.images import fitted
from hsl_data.readers import open_reader
from hsl_data.readers.dicom import open_dicom
from tests.hsl_data.helpers import TASK, bind, picture, prepare


def reader_of(root: Path, reader: str) -> Reader:
    return open_reader(bind(root, reader=reader))


def read(root: Path, reader: str) -> dict[str, Case]:
    return {case.name: case for case in reader_of(root, reader).cases()}


def write_image(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).save(path, format="PNG" if path.suffix == ".png" else "JPEG", quality=95)


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


# --- MURA ------------------------------------------------------------------------------------------------------------


def write_mura(root: Path, header: bool = False) -> Path:
    """Patient 1 has two parts, and a study of three images."""
    studies = {
        "train/XR_WRIST/patient00001/study1_positive": 3,
        "train/XR_HAND/patient00001/study1_negative": 1,
        "train/XR_HAND/patient00002/study1_negative": 2,
        "valid/XR_WRIST/patient11185/study1_positive": 1,
    }
    for split in ("train", "valid"):
        own = {study: number for study, number in studies.items() if study.startswith(split)}
        images = [f"MURA-v1.1/{study}/image{k}.png" for study, number in own.items() for k in range(1, number + 1)]
        labels = [f"MURA-v1.1/{study}/,{int('positive' in study)}" for study in own]
        (root / split).mkdir(parents=True)
        for name, lines, head in (
            ("image_paths", images, "Img_Path"),
            ("labeled_studies", labels, "Img_Path,Label"),
        ):
            text = "\r\n".join([head, *lines] if header else lines) + "\r\n"
            (root / f"{split}_{name}.csv").write_bytes(text.encode())
        for number, image in enumerate(images):
            write_image(root / image.removeprefix("MURA-v1.1/"), number + 100 * (split == "valid"))
    return root


@pytest.mark.parametrize("header", [False, True])
def test_mura(tmp_path: Path, header: bool) -> None:
    root = write_mura(tmp_path / "MURA-v1.1", header)
    cases = read(root, "mura")
    assert len(cases) == 7
    wrist = cases["train/XR_WRIST/patient00001/study1_positive/image2.png"]
    hand = cases["train/XR_HAND/patient00001/study1_negative/image1.png"]
    assert (wrist.site_class, wrist.domain, wrist.source_split) == ("positive", "XR_WRIST", "train")
    assert (hand.site_class, hand.domain) == ("negative", "XR_HAND")
    assert wrist.group == hand.group == "patient00001"
    assert fitted(wrist.load, wrist.name, TASK)[0].shape == (1, 16, 16)
    skipped = reader_of(root, "mura").skipped()
    assert skipped == ({"rows that name no image of MURA v1.1": 2} if header else {})


def test_mura_takes_the_label_of_the_table_and_refuses_others(tmp_path: Path) -> None:
    root = write_mura(tmp_path / "MURA-v1.1")
    table = root / "train_labeled_studies.csv"
    table.write_text(table.read_text().replace("patient00002/study1_negative/,0", "patient00002/study1_negative/,1"))
    assert read(root, "mura")["train/XR_HAND/patient00002/study1_negative/image1.png"].site_class == "positive"
    table.write_text(table.read_text().replace("study1_negative/,1", "study1_negative/,2"))
    with pytest.raises(SourceError, match="neither 0 nor 1"):
        read(root, "mura")


def test_a_patient_in_several_folders_lies_in_one_split_and_what_was_skipped_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "MURA-v1.1"
    lines, studies = [], []
    for number in range(30):
        part, label = ("XR_HAND", "XR_WRIST")[number % 2], ("negative", "positive")[number % 3 == 0]
        study = f"train/{part}/patient{number // 3:05d}/study{number}_{label}"
        write_image(root / study / "image1.png", number)
        lines.append(f"MURA-v1.1/{study}/image1.png")
        studies.append(f"MURA-v1.1/{study}/,{int(label == 'positive')}")
    for name, text in {
        "train_image_paths.csv": "\n".join([*lines, "nonsense"]),
        "train_labeled_studies.csv": "\n".join(studies),
        "valid_image_paths.csv": "",
        "valid_labeled_studies.csv": "",
    }.items():
        (root / name).write_text(text)
    classes = {"positive": "broken", "negative": "whole"}
    prepared = prepare(bind(root, reader="mura", classes=classes), tmp_path / "cache")
    (listing,) = (tmp_path / "cache").glob("*/cases.csv")
    where: dict[str, set[str]] = {}
    for row in csv.DictReader(listing.read_text().splitlines()):
        where.setdefault(row["group"], set()).add(row["split"])
    assert len(where) == 10
    assert all(len(splits) == 1 for splits in where.values())
    assert "not read: 1 rows that name no image of MURA v1.1" in prepared.report.lines()


# --- tables and folders ----------------------------------------------------------------------------------------------


def test_busbra(tmp_path: Path) -> None:
    rows = [
        ("ID", "Case", "Pathology", "Device"),
        ("bus_0001-l", 1, "malignant", "GE Logiq 7 @10-14MHz"),
        ("bus_0001-r", 1, "malignant", "GE Logiq 7 @10-14MHz"),
        ("bus_0002-s", 2, "benign", "U-Systems"),
        ("bus_0003-s", 3, "benign", "U-Systems"),
    ]
    write_csv(tmp_path / "bus_data.csv", rows)
    for number, name in enumerate(("bus_0001-l", "bus_0001-r", "bus_0002-s", "bus_0099-s")):
        write_image(tmp_path / "Images" / f"{name}.png", number)
    write_image(tmp_path / "Masks" / "mask_0001-l.png", 9)
    cases = read(tmp_path, "busbra")
    assert sorted(cases) == ["Images/bus_0001-l.png", "Images/bus_0001-r.png", "Images/bus_0002-s.png"]
    first, second, third = cases.values()
    assert (first.site_class, first.domain) == ("malignant", "GE Logiq 7")
    assert first.group == second.group != third.group
    assert reader_of(tmp_path, "busbra").skipped() == {
        "images without a row in bus_data.csv": 1,
        "rows of bus_data.csv without an image": 1,
    }


def test_busi_leaves_masks_out(tmp_path: Path) -> None:
    for site_class in ("benign", "malignant", "normal"):
        write_image(tmp_path / site_class / f"{site_class} (1).png", 1)
        write_image(tmp_path / site_class / f"{site_class} (1)_mask.png", 2)
    write_image(tmp_path / "benign" / "benign (1)_mask_1.png", 3)
    assert {case.site_class for case in read(tmp_path, "busi").values()} == {"benign", "malignant", "normal"}
    assert reader_of(tmp_path, "busi").skipped() == {"lesion masks": 4}


def test_fracatlas(tmp_path: Path) -> None:
    rows = [
        ("image_id", "hand", "leg", "hip", "shoulder", "mixed", "fractured"),
        ("IMG0000001.jpg", 1, 0, 0, 0, 0, 1),
        ("IMG0000002.jpg", 0, 1, 1, 0, 0, 0),
        ("IMG0000003.jpg", 0, 1, 0, 0, 0, 0),
    ]
    write_csv(tmp_path / "dataset.csv", rows)
    write_image(tmp_path / "images" / "Fractured" / "IMG0000001.jpg", 1)
    write_image(tmp_path / "images" / "Non_fractured" / "IMG0000002.jpg", 2)
    write_image(tmp_path / "images" / "Non_fractured" / "IMG0000009.jpg", 3)
    cases = read(tmp_path, "fracatlas")
    found = {name: (case.site_class, case.domain) for name, case in cases.items()}
    assert found == {
        "images/Fractured/IMG0000001.jpg": ("fractured", "hand"),
        "images/Non_fractured/IMG0000002.jpg": ("non_fractured", "mixed"),
    }
    assert len(reader_of(tmp_path, "fracatlas").skipped()) == 2
    broken = tmp_path / "images" / "Fractured" / "IMG0000001.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(UnreadableImageError, match="truncated"):
        fitted(read(tmp_path, "fracatlas")["images/Fractured/IMG0000001.jpg"].load, "x", TASK)


def test_kermany_knows_the_persons_of_pneumonia_films(tmp_path: Path) -> None:
    names = ("NORMAL/IM-0115-0001.jpeg", "PNEUMONIA/person1_virus_6.jpeg", "PNEUMONIA/person1_bacteria_2.jpeg")
    for split in ("train", "val", "test"):
        for number, name in enumerate(names):
            write_image(tmp_path / split / name, number)
    (tmp_path / "train" / "NORMAL" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "train" / "NORMAL" / "notes.txt").write_bytes(b"x")
    cases = read(tmp_path, "kermany")
    assert len(cases) == 9
    groups = {name: case.group for name, case in cases.items()}
    assert groups["train/PNEUMONIA/person1_virus_6.jpeg"] == groups["train/PNEUMONIA/person1_bacteria_2.jpeg"]
    assert groups["train/PNEUMONIA/person1_virus_6.jpeg"] != groups["test/PNEUMONIA/person1_virus_6.jpeg"]
    assert groups["train/NORMAL/IM-0115-0001.jpeg"] is None
    assert reader_of(tmp_path, "kermany").skipped() == {"files that are no JPEG": 1}


def test_ham10000_groups_by_lesion(tmp_path: Path) -> None:
    rows = [
        ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"),
        ("HAM_1", "ISIC_0000001", "nv", "histo", 40, "male", "back"),
        ("HAM_1", "ISIC_0000002", "nv", "histo", 40, "male", "back"),
        ("HAM_2", "ISIC_0000003", "mel", "histo", 60, "female", "face"),
    ]
    write_csv(tmp_path / "HAM10000_metadata.csv", rows)
    for number in (1, 2, 3):
        write_image(tmp_path / f"HAM10000_images_part_{1 + number % 2}" / f"ISIC_000000{number}.jpg", number)
    by_id = {Path(name).stem: case for name, case in read(tmp_path, "ham10000").items()}
    assert by_id["ISIC_0000001"].group == by_id["ISIC_0000002"].group == "HAM_1"
    assert (by_id["ISIC_0000003"].site_class, by_id["ISIC_0000003"].domain) == ("mel", "face")


@pytest.mark.parametrize(
    ("reader", "table", "text", "said"),
    [
        ("busbra", "bus_data.csv", "ID,Case\n", "column\\(s\\) Pathology are missing"),
        ("busbra", "bus_data.csv", "ID,Case,Pathology\na\n", "line 2 has fewer columns"),
        ("ham10000", "HAM10000_metadata.csv", "lesion_id,image_id,dx\n", "no image of this layout"),
        ("fracatlas", "dataset.csv", b"\xff\xfe", "not UTF-8"),
        ("kermany", "x", "", "folder train/NORMAL is missing"),
        ("mura", "x", "", "cannot be opened"),
    ],
)
def test_another_layout_is_refused_with_what_is_missing(
    tmp_path: Path, reader: str, table: str, text: str | bytes, said: str
) -> None:
    (tmp_path / table).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SourceError, match=said):
        read(tmp_path, reader)


def test_the_cache_notices_a_changed_label(tmp_path: Path) -> None:
    root = write_mura(tmp_path / "MURA-v1.1")
    before = reader_of(root, "mura").facts()
    table = root / "train_labeled_studies.csv"
    table.write_text(table.read_text().replace("patient00002/study1_negative/,0", "patient00002/study1_negative/,1"))
    assert reader_of(root, "mura").facts() != before


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------


class _Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text and bytes as Python 2 wrote its one kind of string."""

    def save_string(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, bytes: save_string, str: save_string}  # type: ignore[attr-defined]


def python2_pickle(content: object) -> bytes:
    file = io.BytesIO()
    _Python2(file, protocol=2).dump(content)
    return file.getvalue()


def write_cifar(root: Path, **changes: Any) -> Path:
    root.mkdir(exist_ok=True)
    for number, batch in enumerate((*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 3072), dtype=np.uint8)
        content = {b"labels": [0, 1, 1, 0], b"data": pixels, **changes}
        (root / batch).write_bytes(python2_pickle(content))
    (root / "batches.meta").write_bytes(python2_pickle({b"label_names": [b"airplane", b"automobile"]}))
    return root


def test_cifar10(tmp_path: Path) -> None:
    cases = read(write_cifar(tmp_path / "cifar"), "cifar10")
    assert len(cases) == 24
    first = cases["data_batch_1/00001"]
    assert (first.site_class, first.source_split) == ("automobile", "train")
    expected = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)[1].reshape(3, 32, 32)
    assert np.array_equal(np.asarray(first.load()), expected.transpose(1, 2, 0))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    "changes", [{"x": Evil()}, {b"labels": [0, 1, 7, 0]}, {b"data": np.zeros((4, 3071), np.uint8)}]
)
def test_cifar10_that_is_none_is_refused_and_nothing_of_it_runs(
    tmp_path: Path, changes: dict[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_cifar(tmp_path / "cifar")
    batch = root / "data_batch_1"
    content = {b"labels": [0, 1, 1, 0], b"data": np.zeros((4, 3072), np.uint8), **changes}
    batch.write_bytes(python2_pickle(content))
    with pytest.raises(SourceError):
        read(root, "cifar10")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_cut_off_cifar10_is_refused(tmp_path: Path, length: int) -> None:
    batch = write_cifar(tmp_path / "cifar") / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:length])
    with pytest.raises(SourceError, match="cut off"):
        read(tmp_path / "cifar", "cifar10")


# --- DICOM -----------------------------------------------------------------------------------------------------------


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 4


def seen(path: Path) -> np.ndarray:
    return fitted(lambda: open_dicom(path), path.name, TASK)[0][0]


def test_dicom_is_rescaled_windowed_and_inverted(tmp_path: Path) -> None:
    plain = seen(write_dicom(tmp_path / "a.dcm", RAMP))
    assert np.array_equal(plain, np.arange(256).reshape(16, 16))
    assert np.array_equal(
        seen(write_dicom(tmp_path / "b.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")), 255 - plain
    )
    rescaled = write_dicom(tmp_path / "c.dcm", RAMP, RescaleSlope=2, RescaleIntercept=-100)
    assert np.asarray(open_dicom(rescaled)).min() == -100
    windowed = seen(write_dicom(tmp_path / "d.dcm", RAMP, WindowCenter=[512, 7], WindowWidth=[256, 7]))
    assert (windowed[:6] == 0).all()
    assert (windowed[-5:] == 255).all()
    assert 100 < windowed[8, 0] < 160


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"NumberOfFrames": 3}, "3 frames; export the one to be used"),
        ({"PhotometricInterpretation": "RGB"}, "RGB is not a grey image"),
        ({"Rows": 60000, "Columns": 60000}, "more than"),
    ],
)
def test_dicom_that_is_not_one_grey_image_is_refused(tmp_path: Path, tags: dict[str, Any], said: str) -> None:
    pixels = np.stack([RAMP] * 3) if "NumberOfFrames" in tags else RAMP
    with pytest.raises(UnreadableImageError, match=said):
        seen(write_dicom(tmp_path / "a.dcm", pixels, **tags))


def test_an_encoding_that_is_not_read_is_named_and_no_dicom_is_said_so(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    with pytest.raises(UnreadableImageError, match="encoded as JPEG-LS Lossless"):
        seen(path)
    (tmp_path / "b.dcm").write_bytes(b"no")
    with pytest.raises(UnreadableImageError, match="not a DICOM file"):
        seen(tmp_path / "b.dcm")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UnreadableImageError):
        seen(path)


def test_a_folder_of_dicom_knows_patient_and_view(tmp_path: Path) -> None:
    write_dicom(tmp_path / "ill" / "1" / "a.dcm", RAMP, PatientID="p1", ViewPosition="AP")
    write_dicom(tmp_path / "well" / "b.dcm", RAMP, PatientID="p1")
    (tmp_path / "well" / "c.dcm").write_bytes(b"no")
    (tmp_path / "index.txt").write_text("x")
    cases = read(tmp_path, "dicom")
    assert {name: (case.site_class, case.group, case.domain) for name, case in cases.items()} == {
        "ill/1/a.dcm": ("ill", "patient p1", "AP"),
        "well/b.dcm": ("well", "patient p1", None),
        "well/c.dcm": ("well", None, None),
    }
    assert reader_of(tmp_path, "dicom").skipped() == {"files outside any class folder": 1}


def test_rsna_rows_repeat_and_a_patient_has_one_class(tmp_path: Path) -> None:
    table = tmp_path / "stage_2_detailed_class_info.csv"
    rows = [("patientId", "class"), ("p1", "Lung Opacity"), ("p1", "Lung Opacity"), ("p2", "Normal"), ("p3", "Normal")]
    write_csv(table, rows)
    for patient in ("p1", "p2", "p9"):
        write_dicom(tmp_path / "stage_2_train_images" / f"{patient}.dcm", RAMP)
    cases = read(tmp_path, "rsna")
    assert {case.group: case.site_class for case in cases.values()} == {"p1": "Lung Opacity", "p2": "Normal"}
    assert reader_of(tmp_path, "rsna").skipped() == {"films without a class": 1, "patients without a film": 1}
    write_csv(table, [*rows, ("p1", "Normal")])
    with pytest.raises(SourceError, match="p1 has two classes"):
        read(tmp_path, "rsna")
