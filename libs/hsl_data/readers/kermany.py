"""Kermany's chest films: `<root>/{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg`, all from one hospital.

Class `NORMAL` or `PNEUMONIA`; group is the person of `personN_{bacteria,virus}_M.jpeg`, unknown for normal films.
PneumoniaMNIST is made of these images: use one or the other.
"""

import re
from pathlib import Path

from hsl_data.readers.listed import Listed, Listing, files_below

_PERSON = re.compile(r"(person\d+)_")


def list_kermany(root: Path) -> Listing:
    listing = Listing()
    for split in ("train", "val", "test"):
        for site_class in ("NORMAL", "PNEUMONIA"):
            for name in files_below(root, f"{split}/{site_class}"):
                file = name.rsplit("/", 1)[1]
                if not file.endswith((".jpeg", ".jpg")):
                    listing.skipped["files that are no JPEG"] += 1
                    continue
                person = _PERSON.match(file)
                # the numbering of persons begins anew in each part of the data set
                group = f"{split} {person[1]}" if person else None
                listing.images.append(Listed(name, site_class, group, source_split=split))
    return listing
