"""How a site binds its own data to a task: where the images are, and which of its classes mean what."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from hsl_data.errors import ClassMappingError
from hsl_model.protocol.config import Message, TaskConfig

ReaderName = Literal[
    "folder", "csv", "npz", "dicom",
    "mura", "rsna", "busbra", "busi", "fracatlas", "kermany", "ham10000", "cifar10",
]  # fmt: skip


class SiteBinding(Message):
    """`classes` maps the site's class names to the task's by name, never by index; every class is mapped or ignored."""

    task_id: str = Field(min_length=1, max_length=64)
    reader: ReaderName
    path: Path = Field(description="folder, CSV manifest, or .npz file, as the reader wants it (docs/data-formats.md)")
    classes: dict[str, str] = Field(min_length=1, description="site class -> positive or negative class of the task")
    ignored_classes: tuple[str, ...] = ()
    domains: tuple[str, ...] = Field(default=(), description="only these body regions, devices, ...; empty: all")
    image_root: Path | None = Field(default=None, description="csv: folder the paths start from; None: the manifest's")
    max_unreadable_share: float = Field(default=0.02, ge=0, le=1, description="skip budget; more ends in an error")
    max_cases: int | None = Field(default=None, ge=2, description="use at most so many, in the classes' proportion")
    split_seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if both := sorted(set(self.classes) & set(self.ignored_classes)):
            raise ValueError(f"both mapped and ignored: {', '.join(both)}")
        if self.image_root is not None and self.reader != "csv":
            raise ValueError("image_root belongs to reader csv only")
        return self


def check_fits(binding: SiteBinding, task: TaskConfig) -> None:
    """Refuse a mapping before any image is read: wrong task, a target the task lacks, a task class never mapped to."""
    wanted = (task.positive_class, task.negative_class)
    if binding.task_id != task.task_id:
        raise ClassMappingError(task_id=task.task_id, reason=f"it was written for task {binding.task_id}.")
    for site_class, task_class in sorted(binding.classes.items()):
        if task_class not in wanted:
            reason = f"{site_class!r} is mapped to {task_class!r}; the task's classes are {wanted[0]!r}, {wanted[1]!r}."
            raise ClassMappingError(task_id=task.task_id, reason=reason)
    for task_class in wanted:
        if task_class not in binding.classes.values():
            reason = f"no class of this site is mapped to {task_class!r}; map one to it."
            raise ClassMappingError(task_id=task.task_id, reason=reason)
