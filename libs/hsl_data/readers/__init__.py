"""Readers: one small file per kind of source, all behind `hsl_data.cases.Reader`."""

from hsl_data.binding import SiteBinding
from hsl_data.cases import Reader
from hsl_data.readers.folder import FolderReader
from hsl_data.readers.manifest import ManifestReader
from hsl_data.readers.npz import NpzReader


def open_reader(binding: SiteBinding) -> Reader:
    match binding.reader:
        case "folder":
            return FolderReader(binding.path)
        case "csv":
            return ManifestReader(binding.path, binding.image_root)
        case "npz":
            return NpzReader(binding.path)
