"""What a study is: data, scenarios, arms, seeds. A TOML file (`libs/hsl_study/configs/`), checked before anything runs.

An arm is a run configuration without its nodes, seed and SAT: those are the scenario's and the grid's. What all arms
have in common stands once, under `run`; an arm says what is different.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hsl_model.protocol.config import Message, RunConfig, TaskConfig
from hsl_study import scenarios
from hsl_study.acquisition import BUILT_IN, BUILT_IN_SITES, BUILT_IN_UNSEEN, Acquisition, AcquisitionPlan
from hsl_study.arm_kinds import BaselineConfig, PooledConfig, SplitConfig
from hsl_study.arm_sat import OWN as OWN_SAT
from hsl_study.arm_sat import ArmSat
from hsl_study.fitting import fitted, largest_domains
from hsl_study.held_out import OfficialPart, UnseenPopulation
from hsl_study.partition import Mode
from hsl_study.scenarios import Scenario
from hsl_study.source_config import PUBLIC_PHANTOMS, DataConfig, PhantomConfig, SatConfig, with_like

_PLACEHOLDER_SHA256 = "0" * 64


class ScenarioConfig(Message):
    """One line of the grid. `kind` is a table of `scenarios.py`, or `given`: the counts stand here."""

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60, description="None: its own")
    kind: Literal["feature-skew", "label-skew", "quantity-skew", "combined", "real-world", "acquisition-skew", "given"]
    ratio: int | None = Field(default=None, ge=1, description="label-skew, quantity-skew")
    size: int | None = Field(default=None, ge=10, description="images of a node (label-, acquisition-skew) or in all")
    domain: str | None = Field(default=None, description="label-skew, quantity-skew: images of this domain only")
    fit: bool = Field(default=False, description="shrink it to what the data set supplies, in place of refusing")
    regions: dict[str, str] = Field(default_factory=dict, description="fit: published body region -> domain")
    scale: tuple[int, int] | None = Field(default=None, description="numerator, denominator")
    nodes: dict[str, tuple[int, int]] = Field(default_factory=dict, description="given: node -> negative, positive")
    parts: dict[str, dict[str, tuple[int, int]]] = Field(
        default_factory=dict, description="given, by domain: node -> domain -> negative, positive"
    )
    acquisitions: dict[str, str] = Field(default_factory=dict, description="node -> what its images are stored by")
    unseen_acquisitions: tuple[str, ...] = Field(default=(), description="no site has them; for scoring only")
    unseen: UnseenPopulation | None = Field(default=None, description="images no node has; for scoring only")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in ("label-skew", "quantity-skew") and self.ratio is None:
            raise ValueError(f"{self.kind} needs a ratio, e.g. ratio = 10")
        if (self.kind == "given") != bool(self.nodes or self.parts) or (self.nodes and self.parts):
            raise ValueError("nodes, or parts, belong to kind given, and it needs them")
        if self.unseen_acquisitions and not self.acquisitions:
            raise ValueError("unseen_acquisitions need acquisitions, the sites' own")
        return self

    @property
    def title(self) -> str:
        """What its rows are called: `label-skew-10`, or the name that was given."""
        return self.name or (self.kind if self.ratio is None else f"{self.kind}-{self.ratio}")

    def build(self, domains: Mapping[str, tuple[int, int]]) -> Scenario:
        """`domains`: what the data set has, negative and positive. Raises `ValueError` for numbers that cannot be."""
        if self.fit and self.kind == "feature-skew":
            domains = largest_domains(domains)
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
            case "acquisition-skew":
                sites = sorted(self._of_site)
                rarer = min(sum(counts[label] for counts in domains.values()) for label in (0, 1))
                found = scenarios.acquisition_skew(sites, self.size // 2 if self.size else rarer // len(sites))
            case "given":
                found = scenarios.given_by_domain(self.parts) if self.parts else scenarios.given(self.nodes)
        found = found if self.scale is None else scenarios.scaled(found, *self.scale)
        found = fitted(found, domains, self.regions) if self.fit else found
        return found.model_copy(update={"name": self.title})

    @property
    def _of_site(self) -> dict[str, str]:
        if self.kind == "acquisition-skew" and not self.acquisitions:
            return {f"site-{index}": name for index, name in enumerate(BUILT_IN_SITES, 1)}
        return self.acquisitions

    def plan(self, own: Mapping[str, Acquisition]) -> AcquisitionPlan | None:
        """`own`: the study's acquisitions, beside those built in. Raises `ValueError` for names that are neither."""
        if not self._of_site:
            return None
        unseen = self.unseen_acquisitions if self.acquisitions else BUILT_IN_UNSEEN
        return AcquisitionPlan(of_site=self._of_site, unseen=unseen, known={**BUILT_IN, **own})


class ArmConfig(Message):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    run: dict[str, Any] = Field(default_factory=dict, description="what differs from the study's `run`")
    training_seed_offset: int = Field(
        default=0, ge=0, description="added to the cell's seed for training and initial weights; the partition keeps it"
    )
    sat: ArmSat = Field(default_factory=ArmSat, description="its shared anchor task, where that is not the study's")
    pretrain_rounds: int = Field(default=0, ge=0, le=10_000, description="on the SAT alone, before round 0")
    pretrain_from: Literal["labels", "views"] = Field(
        default="labels", description="what that learns from; views: no label, two views of an image should be alike"
    )
    pooled: PooledConfig | None = Field(default=None, description="Central, or a baseline fitted to pooled images")
    split: SplitConfig | None = Field(default=None, description="SplitAVG")
    baseline: BaselineConfig | None = Field(default=None, description="no network")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if self.split is not None and (self.pooled is not None or self.baseline is not None):
            raise ValueError("split is an arm of its own: it can be neither pooled nor a baseline")
        if self.pretrain_from == "views" and not self.pretrain_rounds:
            raise ValueError("pretrain_from says what is learnt from before round 0: give pretrain_rounds, e.g. 8")
        return self

    @property
    def method(self) -> dict[str, Any]:
        """What it trains by where nothing is said: references have no second task and nothing to fuse."""
        is_reference = any(kind is not None for kind in (self.pooled, self.split, self.baseline))
        return {"method": {"name": "swarm"}} if is_reference else {}


class StudyConfig(Message):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    task: TaskConfig
    data: DataConfig | None = None
    sat: SatConfig | None = None
    sats: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)], SatConfig] = Field(
        default_factory=dict, description="other shared anchor tasks, for arms that name them"
    )
    phantoms: PhantomConfig | None = None
    scale: Literal["smoke", "small", "paper"] | None = Field(default=None, description="what was laid under the file")
    scenarios: tuple[ScenarioConfig, ...] = Field(min_length=1)
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    mode: Mode = "patient"
    deploy: Literal["best", "last"] = Field(default="best", description="round whose models are scored")
    score: OfficialPart | None = Field(
        default=None, description="train from the publisher's training part, score on this one; None: nodes' own tests"
    )
    acquisitions: dict[str, Acquisition] = Field(default_factory=dict, description="beside those built in")
    run: dict[str, Any] = Field(default_factory=dict)
    contrasts: tuple[tuple[str, str], ...] = Field(default=(), description="pairs of arms, declared before the study")
    primary: Literal["auc", "all_domain_auc", "unseen_auc"] = Field(
        default="auc", description="what the contrasts are about"
    )
    features: bool = Field(default=False, description="keep features of test images, before and after, for the report")
    deviations: tuple[str, ...] = Field(default=(), description="from the paper, beside what the configuration tells")
    gap: tuple[str, str] | None = Field(default=None, description="lower and upper reference, e.g. swarm, central")

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

    @field_validator("sats", mode="before")
    @classmethod
    def _like_own(cls, given: object, others: ValidationInfo) -> object:
        own = others.data.get("sat")
        return {name: with_like(one, own) for name, one in given.items()} if isinstance(given, Mapping) else given

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
        if self.gap is not None and (self.gap[0] == self.gap[1] or not set(self.gap) <= set(names)):
            raise ValueError(f"gap names two different arms of the study; {' and '.join(self.gap)} are not")
        if reserved := {OWN_SAT, *(() if self.phantoms is None else (PUBLIC_PHANTOMS,))} & set(self.sats):
            raise ValueError(f"a SAT of [sats] cannot be called {min(reserved)}: that name has a meaning")
        for name, source in self.sat_configs().items():
            source.check_task(name, self.task)
        for arm in self.arms:
            run = self.run_config(arm, ("node-1", "node-2"), 0, _PLACEHOLDER_SHA256)  # wrong keys before the first hour
            self._check_sat(arm, sees_sat=run.uses_sat or bool(arm.pretrain_rounds))
        for scenario in self.scenarios:
            scenario.plan(self.acquisitions)
        return self

    def _check_sat(self, arm: ArmConfig, *, sees_sat: bool) -> None:
        known = self.sat_sources()
        if not sees_sat and arm.sat != ArmSat():
            raise ValueError(f"arm {arm.name} trains on no SAT: leave its sat out, or give it a run that does")
        if sees_sat and (unknown := sorted(set(arm.sat.sources) - set(known))):
            raise ValueError(f"arm {arm.name} wants the SAT {unknown[0]}; the study has {', '.join(known) or 'none'}")
        if arm.pretrain_rounds and arm.sat.per_node:
            raise ValueError(f"arm {arm.name} is pre-trained for all nodes at once, so they share one SAT")

    def sat_sources(self) -> dict[str, str | None]:
        """Every shared anchor task by name, and the task whose classes its labels are, where it says so."""
        made = {} if self.phantoms is None else {OWN_SAT: None, PUBLIC_PHANTOMS: self.task.task_id}
        return made | {name: source.task_id for name, source in self.sat_configs().items()}

    def sat_configs(self) -> dict[str, SatConfig]:
        """Those that are read from files."""
        return ({} if self.sat is None else {OWN_SAT: self.sat}) | self.sats

    def table(self, scenario: int, domains: Mapping[str, tuple[int, int]]) -> Scenario:
        """`domains`: what the data set has, or its training part. Raises `ValueError` for numbers that cannot be."""
        wanted = self.scenarios[scenario]
        if wanted.unseen is not None and wanted.unseen.counts is None:
            domains = {domain: counts for domain, counts in domains.items() if domain != wanted.unseen.domain}
        if self.score is not None:  # a seventh is for validation
            domains = {domain: (6 * counts[0] // 7, 6 * counts[1] // 7) for domain, counts in domains.items()}
        found = wanted.build(domains)
        found = found if self.score is None else scenarios.scored_on(found, self.score)
        more = {"acquisitions": wanted.plan(self.acquisitions), "unseen": wanted.unseen}
        return Scenario.model_validate({**dict(found), **more})

    def run_config(self, arm: ArmConfig, nodes: tuple[str, ...], seed: int, sat_digest: str | None) -> RunConfig:
        """The run of one cell. Seed and initial weights follow the cell's seed, so that arms start alike; an arm with a
        `training_seed_offset` is another training on the same partition."""
        training_seed = seed + arm.training_seed_offset
        given = overlaid({"convergence": {"enabled": False}}, arm.method, self.run, arm.run)
        given |= {
            "name": f"{self.name}/{arm.name}",
            "task": self.task,
            "nodes": nodes,
            "seed": training_seed,
            "initial": {"seed": training_seed},
            "quorum": {"min_nodes": 1},
        }
        tasks = {self.sat_sources().get(source) for source in arm.sat.sources}
        task = tasks.pop() if len(tasks) == 1 else None
        run = RunConfig.model_validate(given | {"sat_digest": sat_digest, "sat_task_id": task})
        # An arm that has no use for a SAT gets none: its steps would else follow the SAT's size (methods.md H11).
        return run if run.uses_sat else RunConfig.model_validate(given)


def overlaid(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Tables over tables, key by key."""
    merged: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = overlaid(merged[key], value) if both else value
    return merged
