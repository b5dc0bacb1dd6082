"""Where a study's images come from: its data set, its shared anchor tasks, or generated images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from hsl_data.binding import ReaderName
from hsl_data.phantoms import MAX_SITES
from hsl_data.split import Counts
from hsl_model.protocol.config import Message, TaskConfig

PUBLIC_PHANTOMS = "public"


class DataConfig(Message):
    """Where images are. `path` may be left out and given on the command line instead."""

    reader: ReaderName = "npz"
    path: Path | None = None
    classes: dict[str, str] = Field(min_length=1, description="source class -> positive or negative class of the task")
    ignored_classes: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    max_unreadable_share: float = Field(default=0.02, ge=0, le=1)


class SatConfig(DataConfig):
    """The shared anchor task is drawn from a source of its own, `per_class` images of either class."""

    positive_class: str = "positive"
    negative_class: str = "negative"
    task_id: str | None = Field(
        default=None, description="the study's task_id where its images are of the study's task, with the same classes"
    )
    per_class: int = Field(default=500, ge=1)
    rare: Literal["positive", "negative"] | None = Field(
        default=None, description="one image of that class and `per_class` of the other, as some sites of the paper had"
    )
    seed: int = 0

    @property
    def counts(self) -> Counts:
        """Negative and positive images that are drawn."""
        few = {name: 1 if name == self.rare else self.per_class for name in ("negative", "positive")}
        return few["negative"], few["positive"]

    def check_task(self, name: str, task: TaskConfig) -> None:
        """Raises `ValueError` where it says it is of the study's task and its classes are others."""
        own, wanted = (self.positive_class, self.negative_class), (task.positive_class, task.negative_class)
        if self.task_id == task.task_id and own != wanted:
            raise ValueError(
                f"SAT {name} says it is of task {task.task_id}, so its positive_class and negative_class must be "
                f"{wanted[0]} and {wanted[1]}; they are {own[0]} and {own[1]}"
            )


class PhantomConfig(Message):
    """Generated images instead of a data set: for trying things, and for tests. Two SATs belong to them: `sat` shows
    lesions, `public` is of the study's task."""

    sites: int = Field(default=3, ge=1, le=MAX_SITES)
    cases_per_site: int = Field(default=120, ge=20)
    sat_per_class: int = Field(default=12, ge=2)
    seed: int = 0


def with_like(given: object, own: SatConfig | None) -> object:
    """`like = "sat"` in a section of [sats]: what it does not say is as in [sat], also the images' path."""
    if not isinstance(given, Mapping) or "like" not in given:
        return given
    if given["like"] != "sat" or own is None:
        raise ValueError('like can only be "sat", in a study that has [sat]')
    return own.model_dump(exclude_unset=True) | {key: value for key, value in given.items() if key != "like"}
