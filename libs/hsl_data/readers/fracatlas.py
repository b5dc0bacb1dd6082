"""FracAtlas: `<root>/images/{Fractured,Non_fractured}/IMG….jpg` and `<root>/dataset.csv` with 0/1 columns.

Class `fractured` or `non_fractured`, by the table; domain is the body region, `mixed` for several. Patients are not
known. The 59 truncated JPEGs of the original count as unreadable images.
"""

from pathlib import Path

from hsl_data.readers.listed import Listed, Listing, files_below, read_table

REGIONS = ("hand", "leg", "hip", "shoulder")


def list_fracatlas(root: Path) -> Listing:
    rows = {row["image_id"]: row for row in read_table(root / "dataset.csv", ("image_id", "fractured", *REGIONS))}
    listing = Listing()
    seen = set()
    for name in files_below(root, "images", "*.jpg"):
        row = rows.get(name.rsplit("/", 1)[1])
        if row is None:
            listing.skipped["images without a row in dataset.csv"] += 1
            continue
        seen.add(row["image_id"])
        regions = [region for region in REGIONS if row[region] == "1"]
        site_class = "fractured" if row["fractured"] == "1" else "non_fractured"
        listing.images.append(Listed(name, site_class, domain=regions[0] if len(regions) == 1 else "mixed"))
    if missing := len(rows.keys() - seen):
        listing.skipped["rows of dataset.csv without an image"] = missing
    return listing
