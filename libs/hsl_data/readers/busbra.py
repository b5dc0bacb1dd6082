"""BUS-BRA: breast ultrasound. `<root>/bus_data.csv` and `<root>/Images/<ID>.png`; `Masks/` is not read.

Class `benign` or `malignant`; domain is the device without its probe, group the case (patient).
"""

from pathlib import Path

from hsl_data.readers.listed import Listed, Listing, files_below, only_listed, read_table


def list_busbra(root: Path) -> Listing:
    rows = {f"Images/{row['ID']}.png": row for row in read_table(root / "bus_data.csv", ("ID", "Case", "Pathology"))}
    files = files_below(root, "Images", "*.png")
    without_row, without_file = only_listed(files, rows)
    listing = Listing()
    listing.skipped["images without a row in bus_data.csv"] += len(without_row)
    listing.skipped["rows of bus_data.csv without an image"] += len(without_file)
    for name in files:
        if row := rows.get(name):
            device = row.get("Device", "").split("@")[0].strip()
            listing.images.append(Listed(name, row["Pathology"], f"case {row['Case']}", device or None))
    listing.skipped = +listing.skipped
    return listing
