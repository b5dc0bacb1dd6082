"""A site's images as options: used by `hsl node bind`, `hsl data report` and `hsl data sat`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hsl_cli.errors import BadInputError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from hsl_data.binding import SiteBinding


@dataclass(frozen=True)
class Source:
    path: Annotated[Path, typer.Option(help="Folder, CSV manifest, or .npz file.", show_default=False)]
    reader: Annotated[
        str | None,
        typer.Option(help="folder, csv, npz, dicom, or a data set's name (docs/data-formats.md). Default: by --path."),
    ] = None
    ignore_class: Annotated[list[str] | None, typer.Option(help="A class that is not used; repeatable.")] = None
    domain: Annotated[
        list[str] | None, typer.Option(help="Only this body region, device, …; repeatable. Default: all.")
    ] = None
    image_root: Annotated[Path | None, typer.Option(help="csv: the folder its paths start from.")] = None
    max_unreadable_share: Annotated[float, typer.Option(help="More unreadable images than this are an error.")] = 0.02
    max_cases: Annotated[int | None, typer.Option(help="Use at most so many images.")] = None
    split_seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0

    def binding(self, task_id: str, classes: dict[str, str]) -> "SiteBinding":
        """The binding, checked; `BadInputError` names the option that is wrong."""
        from pydantic import ValidationError

        from hsl_data.binding import SiteBinding

        if not self.path.exists():
            raise BadInputError(reason=f"--path {self.path}: there is no such file or folder.")
        try:
            return SiteBinding.model_validate(
                {
                    "task_id": task_id,
                    "reader": self.reader or _reader_for(self.path),
                    "path": self.path.resolve(),
                    "classes": classes,
                    "ignored_classes": tuple(self.ignore_class or ()),
                    "domains": tuple(self.domain or ()),
                    "image_root": None if self.image_root is None else self.image_root.resolve(),
                    "max_unreadable_share": self.max_unreadable_share,
                    "max_cases": self.max_cases,
                    "split_seed": self.split_seed,
                }
            )
        except ValidationError as error:
            raise BadInputError(reason=_options_named(error)) from error


def class_mapping(pairs: list[str]) -> dict[str, str]:
    """["fractured=fracture"] as {"fractured": "fracture"}: the site's class, then the task's. By name only."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        site_class, equals, task_class = pair.partition("=")
        if not (site_class and equals and task_class):
            raise BadInputError(reason=f"--class {pair}: write it as SITE_CLASS=TASK_CLASS, e.g. fractured=fracture.")
        if site_class in mapping:
            raise BadInputError(reason=f"--class {pair}: the class {site_class} is mapped twice.")
        mapping[site_class] = task_class
    return mapping


def _reader_for(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.suffix in (".npz", ".csv"):
        return path.suffix[1:]
    raise BadInputError(reason=f"--path {path}: say with --reader whether it is a folder, csv or npz.")


def _options_named(error: "ValidationError") -> str:
    found = error.errors()[0]
    name = str(found["loc"][0]).replace("_", "-") if found["loc"] else ""
    message = found["msg"].removeprefix("Value error, ")
    return f"--{name}: {message}." if name else f"{message}."
