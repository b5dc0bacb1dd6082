"""The grid of a study, scenario x seed x arm: what is not yet finished is run, `jobs` cells at a time.

An engine (engines.py) is something that runs cells and yields their rows; the grid says which are left, what they will
cost and when to stop, and alone writes what comes. Each cell is a process of its own with a fixed number of threads, so
bits do not depend on how many run side by side, and a cell that dies takes nothing with it. Before the first one, the
hours are told and held against the budget. A study may be run in pieces: when the time of a piece is up, cells under
way write a snapshot and end, and the next piece goes on there.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from statistics import median

from hsl_model.device import is_gpu
from hsl_model.engine import EngineOptions
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import HslError
from hsl_study.arm_data import arm_pool
from hsl_study.cell_work import CellWork
from hsl_study.cells import site_data
from hsl_study.config import ArmConfig
from hsl_study.engines import CellFailedError, Engine, local
from hsl_study.estimate import arm_seconds, estimated_seconds
from hsl_study.folder import Key, MissingCell, StudyFolder
from hsl_study.partition import Partition, ScenarioInfeasibleError
from hsl_study.pool import Pool
from hsl_study.pretraining import NODE, prepared, pretraining

__all__ = ["BudgetError", "CellFailedError", "Grid"]
GPU_SHARE = 0.9
"""Of a GPU's memory, for the cells that share it: each process holds some hundred MB beside what torch counts."""
Say = Callable[[str], None]


class BudgetError(HslError):
    code = "study_over_budget"
    http_status = 422
    title = "The study would take longer than its budget"
    template = (
        "{num_cells} cells would take about {hours:.1f} hours and the budget is {budget:.1f}. Allow more with "
        "--budget-hours, or run fewer seeds, arms or scenarios."
    )


class NothingToRunError(HslError):
    code = "study_nothing_to_run"
    http_status = 422
    title = "No cell of the study can be run"
    template = "None of the study's cells can be run with these images. {reason}"


@dataclass(frozen=True)
class _Cell:
    scenario: int
    key: Key


@dataclass(frozen=True)
class Grid:
    folder: StudyFolder
    clock: Clock
    say: Say
    options: EngineOptions = field(default_factory=lambda: EngineOptions(snapshot_every_steps=None))
    engine: Engine = local

    def run(self, jobs: int, budget_hours: float | None, stop_after_s: float | None = None) -> int:
        """How many cells are left because the time was up. Raises `BudgetError` or `NothingToRunError` before anything
        is trained, `CellFailedError` after the cells that still ran."""
        begun_s = self.clock.monotonic()
        pool = self.folder.pool()
        waiting, costs = self._waiting(pool)
        hours = self._hours([costs[cell.scenario, cell.key[1]] for cell in waiting], jobs)
        self.say(f"{len(waiting)} cells to run, {jobs} at a time: about {hours:.2f} hours")
        if budget_hours is not None and hours > budget_hours:
            raise BudgetError(num_cells=len(waiting), hours=hours, budget=budget_hours)
        stop_s = None if stop_after_s is None else begun_s + stop_after_s
        took: list[float] = []
        warned: set[str] = set()
        for work, reply in self.engine(self._works(waiting, jobs, stop_s), jobs):
            for warning in sorted(set(reply.warnings) - warned):
                self.say(f"{work.title}: {warning}")
            warned |= set(reply.warnings)
            if reply.row is None:
                self.say(f"{work.title} was stopped; it goes on from its snapshot")
                continue
            self.folder.finish(reply.row)
            took.append(reply.row.seconds)
            left_s = (len(waiting) - len(took)) * median(took) / jobs
            told = f"{len(took)} of {len(waiting)}: {work.title} in {reply.row.seconds:.0f} s"
            self.say(f"{told}; about {left_s / 60:.0f} min left")
        return len(waiting) - len(took)

    def _works(self, cells: list[_Cell], jobs: int, stop_s: float | None) -> Iterator[CellWork]:
        """As the engine asks for them. None is begun once the time is up, but the first `jobs` always are."""
        share = GPU_SHARE / jobs if jobs > 1 and is_gpu(self.options.device) else None
        for at, cell in enumerate(cells):
            left_s = None if stop_s is None else max(0.0, stop_s - self.clock.monotonic())
            if left_s == 0.0 and at >= jobs:
                return
            yield CellWork(
                folder=self.folder.path.resolve(),
                scenario=cell.scenario,
                key=cell.key,
                options=self.options,
                memory_share=share,
                stop_after_s=left_s,
            )

    def _hours(self, seconds: list[float], jobs: int) -> float:
        """Cells that share a GPU may gain nothing by it: their hours are those of one after the other."""
        return sum(seconds) / (1 if is_gpu(self.options.device) else jobs) / 3600

    def _waiting(self, pool: Pool) -> tuple[list[_Cell], dict[tuple[int, str], float]]:
        """Cells without a row that the data can supply, and seconds for each (scenario, arm) among them."""
        config, done = self.folder.config, self.folder.rows()
        waiting: list[_Cell] = []
        missing: list[MissingCell] = []
        costs: dict[tuple[int, str], float] = {}
        known = self.folder.estimates()
        told = self._say_all(pool.lines())
        for scenario, seed in product(range(len(config.scenarios)), config.seeds):
            try:
                partition = self.folder.partition(pool, scenario, seed)
            except ScenarioInfeasibleError as error:
                name, reason = str(error.data["scenario"]), error.sentence()
                missing += [MissingCell(scenario=name, arm=arm.name, seed=seed, reason=reason) for arm in config.arms]
                self.say(f"seed {seed}: {reason}")
                continue
            if seed == config.seeds[0]:
                told += self._say_all(partition.lines())
            for arm in config.arms:
                key = (partition.scenario.name, arm.name, seed)
                if key not in done:
                    waiting.append(_Cell(scenario, key))
                    name = json.dumps([scenario, arm.name, asdict(self.options)])
                    if name not in known:
                        known[name] = self._seconds(arm, partition, pool, seed)
                    costs[scenario, arm.name] = known[name]
        self.folder.set_scenarios(told)
        self.folder.set_missing(missing)
        if not waiting and not done:
            raise NothingToRunError(reason=missing[0].reason)
        self.folder.set_estimates(known)
        return waiting, costs

    def _say_all(self, lines: list[str]) -> list[str]:
        for line in lines:
            self.say(line)
        return lines

    def _seconds(self, arm: ArmConfig, partition: Partition, pool: Pool, seed: int) -> float:
        """Of one cell of the arm, measured here."""
        nodes = tuple(node.node_id for node in partition.scenario.nodes)
        own = arm_pool(arm.sat, pool, nodes, seed)
        run = self.folder.config.run_config(arm, nodes, seed, own.sat_digest)
        seconds = arm_seconds(arm, run, site_data(own, partition), self.options, self.clock)
        return seconds + self._pretraining_seconds(arm, run, own)

    def _pretraining_seconds(self, arm: ArmConfig, run: RunConfig, pool: Pool) -> float:
        if not arm.pretrain_rounds or pool.sat is None:
            return 0.0
        before, site, _ = prepared(pretraining(run, arm.pretrain_rounds), pool.sat, arm.pretrain_from)
        num_views = 2 if arm.pretrain_from == "views" else 1
        return num_views * estimated_seconds(before, {NODE: site}, self.options, self.clock)
