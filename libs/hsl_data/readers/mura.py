"""MURA v1.1: musculoskeletal radiographs, one label a study.

    <root>/train_image_paths.csv     MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png
    <root>/train_labeled_studies.csv MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/,1       valid_… likewise

Class `positive` (abnormal) or `negative`; domain is the body part, group the patient. The studies' table has the last
word on the label. Known copies have other line ends and an added header, so rows of another form are left out, counted.
"""

import re
from pathlib import Path

from hsl_data.errors import SourceError
from hsl_data.readers.listed import Listed, Listing, read_text

_IMAGE = re.compile(
    r"MURA-v1\.1/(?P<file>(?P<split>train|valid)/(?P<part>XR_[A-Z]+)/(?P<patient>patient\d+)/"
    r"(?P<study>study\d+_(?P<label>positive|negative))/image\d+\.png)"
)
_LABELS = {"0": "negative", "1": "positive"}


def list_mura(root: Path) -> Listing:
    listing = Listing()
    for split in ("train", "valid"):
        labels = _labels(root / f"{split}_labeled_studies.csv")
        for line in read_text(root / f"{split}_image_paths.csv").split():
            found = _IMAGE.fullmatch(line)
            if found is None:
                listing.skipped["rows that name no image of MURA v1.1"] += 1
                continue
            study = line.rsplit("/", 1)[0] + "/"
            listing.images.append(
                Listed(
                    name=found["file"],
                    site_class=labels.get(study, found["label"]),
                    group=found["patient"],
                    domain=found["part"],
                    source_split=found["split"],
                )
            )
    return listing


def _labels(path: Path) -> dict[str, str]:
    labels = {}
    for line in read_text(path).split():
        study, _, label = line.rpartition(",")
        if not study.startswith("MURA-v1.1/"):
            continue  # a header that some copies have
        if label not in _LABELS:
            raise SourceError(path=path, reason=f"label {label!r} is neither 0 nor 1.")
        labels[study] = _LABELS[label]
    return labels
