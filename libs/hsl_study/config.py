"""What a study is: data, scenarios, arms, seeds. A TOML file (`libs/hsl_study/configs/`), checked before anything runs.

An arm is a run configuration without its nodes, seed and SAT: those are the scenario's and the grid's. What all arms
have in common stands once, under `run`; an arm says what is different.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hsl_data.binding import ReaderName
from hsl_model.protocol.config import Message, RunConfig, TaskConfig
from hsl_study import scenarios
from hsl_study.partition import Mode
from hsl_study.scenarios import Scenario

_PLACEHOLDER_SHA256 = "0" * 64


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
    per_class: int = Field(default=500, ge=1)
    seed: int = 0


class PhantomConfig(Message):
    """Generated images instead of a data set: for trying things, and for tests."""

    sites: int = Field(default=3, ge=1, le=16)
    cases_per_site: int = Field(default=120, ge=20)
    sat_per_class: int = Field(default=12, ge=2)
    seed: int = 0


class ScenarioConfig(Message):
    """One line of the grid. `kind` is a table of `scenarios.py`, or `given`: the counts stand here."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60, description="None: its own")
    kind: Literal["feature-skew", "label-skew", "quantity-skew", "combined", "real-world", "given"]
    ratio: int | None = Field(default=None, ge=1, description="label-skew, quantity-skew")
    size: int | None = Field(default=None, ge=10, description="images of a node (label-skew) or in all")
    domain: str | None = Field(default=None, description="label-skew, quantity-skew: images of this domain only")
    scale: tuple[int, int] | None = Field(default=None, description="numerator, denominator")
    nodes: dict[str, tuple[int, int]] = Field(default_factory=dict, description="given: node -> negative, positive")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in ("label-skew", "quantity-skew") and self.ratio is None:
            raise ValueError(f"{self.kind} needs a ratio, e.g. ratio = 10")
        if (self.kind == "given") != bool(self.nodes):
            raise ValueError("nodes belong to kind given, and it needs them")
        return self

    @property
    def title(self) -> str:
        """What its rows are called: `label-skew-10`, or the name that was given."""
        return self.name or (self.kind if self.ratio is None else f"{self.kind}-{self.ratio}")

    def build(self, domains: Mapping[str, tuple[int, int]]) -> Scenario:
        """`domains`: what the data set has, negative and positive. Raises `ValueError` for numbers that cannot be."""
        match self.kind:
            case "feature-skew":
                found = scenarios.feature_skew(domains, None if self.size is None else self.size // 2)
            case "label-skew":
                size = self.size or scenarios.LABEL_SKEW_SIZE
                found = scenarios.label_skew(self.ratio or 0, self.domain, size)
            case "quantity-skew":
                size = self.size or scenarios.QUANTITY_SKEW_SIZE
                found = scenarios.quantity_skew(self.ratio or 0, self.domain, size)
            case "combined":
                found = scenarios.combined()
            case "real-world":
                found = scenarios.real_world(self.size)
            case "given":
                found = scenarios.given(self.nodes)
        found = found if self.scale is None else scenarios.scaled(found, *self.scale)
        return found.model_copy(update={"name": self.title})


class ArmConfig(Message):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    run: dict[str, Any] = Field(default_factory=dict, description="what differs from the study's `run`")
    training_seed_offset: int = Field(
        default=0, ge=0, description="added to the cell's seed for training and initial weights; the partition keeps it"
    )


class StudyConfig(Message):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    task: TaskConfig
    data: DataConfig | None = None
    sat: SatConfig | None = None
    phantoms: PhantomConfig | None = None
    scenarios: tuple[ScenarioConfig, ...] = Field(min_length=1)
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    mode: Mode = "patient"
    deploy: Literal["best", "last"] = Field(default="best", description="round whose models are scored")
    run: dict[str, Any] = Field(default_factory=dict)
    contrasts: tuple[tuple[str, str], ...] = Field(default=(), description="pairs of arms, declared before the study")

    @field_validator("seeds", mode="before")
    @classmethod
    def _range(cls, given: object) -> object:
        """`seeds = "0-29"` is the same as the list."""
        if not isinstance(given, str):
            return given
        first, dash, last = given.partition("-")
        if not (dash and first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise ValueError('write seeds as a list, or as a range like "0-29"')
        return tuple(range(int(first), int(last) + 1))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.data is None) == (self.phantoms is None):
            raise ValueError("give either data or phantoms")
        names = [arm.name for arm in self.arms]
        titles = [scenario.title for scenario in self.scenarios]
        if any(len(set(found)) < len(found) for found in (names, titles, self.seeds)):
            raise ValueError(
                "an arm, a scenario or a seed is named twice; give scenarios of one kind names of their own"
            )
        if unknown := sorted({name for pair in self.contrasts for name in pair} - set(names)):
            raise ValueError(f"contrasts name arms that the study has not: {', '.join(unknown)}")
        for arm in self.arms:
            self.run_config(arm, ("node-1", "node-2"), 0, _PLACEHOLDER_SHA256)  # every wrong key before the first hour
        return self

    def run_config(self, arm: ArmConfig, nodes: tuple[str, ...], seed: int, sat_digest: str | None) -> RunConfig:
        """The run of one cell. Seed and initial weights follow the cell's seed, so that arms start alike; an arm with a
        `training_seed_offset` is another training on the same partition."""
        training_seed = seed + arm.training_seed_offset
        given = _merged({"convergence": {"enabled": False}}, self.run, arm.run)
        given |= {
            "name": f"{self.name}/{arm.name}",
            "task": self.task,
            "nodes": nodes,
            "seed": training_seed,
            "initial": {"seed": training_seed},
            "quorum": {"min_nodes": 1},
        }
        if _needs_sat(given):
            given["sat_digest"] = sat_digest
        return RunConfig.model_validate(given)


def _needs_sat(given: Mapping[str, Any]) -> bool:
    """Arms without a second task get no SAT: their steps would else follow its size (methods.md H11)."""
    method = given.get("method", {}).get("name", "hsl")
    return bool(given.get("network", {}).get("architecture") == "mmoe" or method == "hsl")


def _merged(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables over tables, key by key."""
    merged: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = _merged(merged[key], value) if both else value
    return merged
