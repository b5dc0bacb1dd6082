"""DICOM: one image of a file as it is meant to be seen, plain folders of such files, and the RSNA pneumonia layout.

Rescaled (slope, intercept), windowed where the file says how (the first window), inverted for MONOCHROME1. Files of
several frames, of colour, or without pixels are refused one by one, each with its reason, and count against the skip
budget. Compressed pixels are read where Pillow can (JPEG baseline, JPEG 2000); else the reason names the encoding.
"""

from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from hsl_data.errors import SourceError, UnreadableImageError
from hsl_data.images import MAX_PIXELS
from hsl_data.readers.listed import Listed, Listing, files_below, only_listed, read_table

_RSNA_IMAGES = "stage_2_train_images"


def open_dicom(path: Path) -> Image.Image:
    """A grey image of 32-bit floats; `hsl_data.images.fit` takes it to 8 bits."""
    try:
        dataset = pydicom.dcmread(path)
    except InvalidDicomError as error:
        raise UnreadableImageError(path.name, "not a DICOM file") from error
    if "PixelData" not in dataset:
        raise UnreadableImageError(path.name, "DICOM without an image")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise UnreadableImageError(path.name, f"{dataset.NumberOfFrames} frames; export the one to be used")
    if dataset.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImageError(path.name, f"{dataset.get('PhotometricInterpretation')} is not a grey image")
    if int(dataset.Rows) * int(dataset.Columns) > MAX_PIXELS:
        raise UnreadableImageError(path.name, f"more than {MAX_PIXELS:,} pixels")
    try:
        stored = dataset.pixel_array
    except RuntimeError as error:
        encoding = dataset.file_meta.TransferSyntaxUID.name
        raise UnreadableImageError(path.name, f"its pixels are encoded as {encoding}, which is not read") from error
    values = np.asarray(apply_voi_lut(apply_modality_lut(stored, dataset), dataset, index=0), dtype=np.float32)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = values.max() - values
    return Image.fromarray(values)


def list_dicom(root: Path) -> Listing:
    """`<root>/<class>/**/<file>`: class by the first folder, group the PatientID, domain the ViewPosition."""
    listing = Listing()
    for name in files_below(root, "."):
        if "/" not in name:
            listing.skipped["files outside any class folder"] += 1
            continue
        group, domain = _described(root / name)
        listing.images.append(Listed(name, name.split("/")[0], group, domain))
    return listing


def list_rsna(root: Path) -> Listing:
    """RSNA Pneumonia Detection Challenge: classes `Normal`, `Lung Opacity`, `No Lung Opacity / Not Normal`.

    A patient has one film and a row for every box, so rows repeat. Test films have no labels and are not read. The
    films stem from the NIH chest X-rays: use one or the other.
    """
    table = root / "stage_2_detailed_class_info.csv"
    classes: dict[str, str] = {}
    for row in read_table(table, ("patientId", "class")):
        if classes.setdefault(row["patientId"], row["class"]) != row["class"]:
            raise SourceError(path=table, reason=f"patient {row['patientId']} has two classes.")
    rows = {f"{_RSNA_IMAGES}/{patient}.dcm": patient for patient in classes}
    files = files_below(root, _RSNA_IMAGES, "*.dcm")
    without_row, without_file = only_listed(files, rows)
    listing = Listing()
    if without_row:
        listing.skipped["films without a class"] = len(without_row)
    if without_file:
        listing.skipped["patients without a film"] = len(without_file)
    for name in files:
        if patient := rows.get(name):
            listing.images.append(Listed(name, classes[patient], patient))
    return listing


def _described(path: Path) -> tuple[str | None, str | None]:
    """Patient and view, without reading pixels. A file that is no DICOM says so when it is opened."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID", "ViewPosition"])
    except (InvalidDicomError, OSError):
        return None, None
    patient, view = str(dataset.get("PatientID") or ""), str(dataset.get("ViewPosition") or "")
    return f"patient {patient}" if patient else None, view or None


LAYOUTS = {"dicom": list_dicom, "rsna": list_rsna}
