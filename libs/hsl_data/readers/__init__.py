"""Readers: one small file per kind of source, all behind `hsl_data.cases.Reader`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from hsl_data.binding import SiteBinding
from hsl_data.cases import Reader
from hsl_data.readers.busbra import list_busbra
from hsl_data.readers.busi import list_busi
from hsl_data.readers.cifar10 import Cifar10Reader
from hsl_data.readers.folder import FolderReader
from hsl_data.readers.fracatlas import list_fracatlas
from hsl_data.readers.ham10000 import list_ham10000
from hsl_data.readers.kermany import list_kermany
from hsl_data.readers.listed import ListedReader, Listing
from hsl_data.readers.manifest import ManifestReader
from hsl_data.readers.mura import list_mura
from hsl_data.readers.npz import NpzReader

LAYOUTS: Mapping[str, Callable[[Path], Listing]] = {
    "mura": list_mura,
    "busbra": list_busbra,
    "busi": list_busi,
    "fracatlas": list_fracatlas,
    "kermany": list_kermany,
    "ham10000": list_ham10000,
}


def open_reader(binding: SiteBinding) -> Reader:
    match binding.reader:
        case "folder":
            return FolderReader(binding.path)
        case "csv":
            return ManifestReader(binding.path, binding.image_root)
        case "npz":
            return NpzReader(binding.path)
        case "cifar10":
            return Cifar10Reader(binding.path)
        case "dicom" | "rsna":
            from hsl_data.readers import dicom  # its library takes a while to import

            return ListedReader(binding.path, dicom.LAYOUTS[binding.reader], dicom.open_dicom)
    return ListedReader(binding.path, LAYOUTS[binding.reader])
