"""BUSI: breast ultrasound. `<root>/{benign,malignant,normal}/<class> (N).png`, with lesion masks beside the images.

Masks (`… _mask.png`, `… _mask_1.png`) are no images, and are counted. Patients are not known.
"""

from pathlib import Path

from hsl_data.readers.listed import Listed, Listing, files_below

CLASSES = ("benign", "malignant", "normal")


def list_busi(root: Path) -> Listing:
    listing = Listing()
    for site_class in CLASSES:
        for name in files_below(root, site_class, "*.png"):
            if "_mask" in name:
                listing.skipped["lesion masks"] += 1
            else:
                listing.images.append(Listed(name, site_class))
    return listing
