"""HAM10000: skin lesions. `<root>/HAM10000_metadata.csv` and `ISIC_….jpg` anywhere below the root.

Class is `dx` (nv, mel, bkl, …), to be mapped to a task's two classes; group is the lesion, of which there are several
images; domain is the body site.
"""

from pathlib import Path

from hsl_data.readers.listed import Listed, Listing, files_below, read_table


def list_ham10000(root: Path) -> Listing:
    rows = {row["image_id"]: row for row in read_table(root / "HAM10000_metadata.csv", ("lesion_id", "image_id", "dx"))}
    listing = Listing()
    seen = set()
    for name in files_below(root, ".", "*.jpg"):
        row = rows.get(Path(name).stem)
        if row is None:
            listing.skipped["images without a row in HAM10000_metadata.csv"] += 1
            continue
        seen.add(row["image_id"])
        listing.images.append(Listed(name, row["dx"], row["lesion_id"], row.get("localization") or None))
    if missing := len(rows.keys() - seen):
        listing.skipped["rows of HAM10000_metadata.csv without an image"] = missing
    return listing
