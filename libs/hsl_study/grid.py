"""The grid of a study, scenario x seed x arm: what is not yet finished is run, `jobs` cells at a time.

Each cell is a process of its own with a fixed number of threads, so bits do not depend on how many run side by side,
and a cell that dies takes nothing with it. Before the first one, the hours are told and held against the budget.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import product
from statistics import median

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import HslError
from hsl_study.arm_data import arm_pool
from hsl_study.cells import CellRow, site_data
from hsl_study.config import ArmConfig
from hsl_study.estimate import arm_seconds, estimated_seconds
from hsl_study.folder import Key, MissingCell, StudyFolder
from hsl_study.partition import ScenarioInfeasibleError
from hsl_study.pool import Pool
from hsl_study.pretraining import NODE, prepared, pretraining

Say = Callable[[str], None]


class BudgetError(HslError):
    code = "study_over_budget"
    http_status = 422
    title = "The study would take longer than its budget"
    template = (
        "{num_cells} cells would take about {hours:.1f} hours and the budget is {budget:.1f}. Allow more with "
        "--budget-hours, or run fewer seeds, arms or scenarios."
    )


class CellFailedError(HslError):
    code = "study_cell_failed"
    http_status = 500
    title = "A cell of the study failed"
    template = "{cell} ended with status {status}: {said} The same command continues with the cells that are left."


@dataclass(frozen=True)
class _Cell:
    scenario: int
    key: Key


@dataclass(frozen=True)
class Grid:
    folder: StudyFolder
    clock: Clock
    say: Say
    num_threads: int = 1

    def run(self, jobs: int, budget_hours: float | None) -> None:
        """Raises `BudgetError` before anything is trained, `CellFailedError` after the cells that still ran."""
        pool = self.folder.pool()
        for line in pool.lines():
            self.say(line)
        waiting, costs = self._waiting(pool)
        hours = sum(costs[cell.scenario, cell.key[1]] for cell in waiting) / jobs / 3600
        self.say(f"{len(waiting)} cells to run, {jobs} at a time: about {hours:.2f} hours")
        if budget_hours is not None and hours > budget_hours:
            raise BudgetError(num_cells=len(waiting), hours=hours, budget=budget_hours)
        took: list[float] = []
        for row in self._finished(waiting, jobs):
            self.folder.finish(row)
            took.append(row.seconds)
            left_s = (len(waiting) - len(took)) * median(took) / jobs
            name = "/".join(map(str, row.key))
            self.say(f"{len(took)} of {len(waiting)}: {name} in {row.seconds:.0f} s; about {left_s / 60:.0f} min left")

    def _waiting(self, pool: Pool) -> tuple[list[_Cell], dict[tuple[int, str], float]]:
        """Cells without a row that the data can supply, and seconds for each (scenario, arm) among them."""
        config, done = self.folder.config, self.folder.rows()
        waiting: list[_Cell] = []
        missing: list[MissingCell] = []
        costs: dict[tuple[int, str], float] = {}
        for scenario, seed in product(range(len(config.scenarios)), config.seeds):
            try:
                partition = self.folder.partition(pool, scenario, seed)
            except ScenarioInfeasibleError as error:
                name, reason = str(error.data["scenario"]), error.sentence()
                missing += [MissingCell(scenario=name, arm=arm.name, seed=seed, reason=reason) for arm in config.arms]
                self.say(f"seed {seed}: {reason}")
                continue
            if seed == config.seeds[0]:
                for line in partition.lines():
                    self.say(line)
            for arm in config.arms:
                key = (partition.scenario.name, arm.name, seed)
                if key not in done:
                    waiting.append(_Cell(scenario, key))
                    if (scenario, arm.name) not in costs:
                        nodes = tuple(node.node_id for node in partition.scenario.nodes)
                        own = arm_pool(arm.sat, pool, nodes, seed)
                        run = config.run_config(arm, nodes, seed, own.sat_digest)
                        sites = site_data(own, partition)
                        seconds = arm_seconds(arm, run, sites, self.num_threads, self.clock)
                        costs[scenario, arm.name] = seconds + self._pretraining_seconds(arm, run, own)
        self.folder.set_missing(missing)
        return waiting, costs

    def _pretraining_seconds(self, arm: ArmConfig, run: RunConfig, pool: Pool) -> float:
        if not arm.pretrain_rounds or pool.sat is None:
            return 0.0
        before, site, _ = prepared(pretraining(run, arm.pretrain_rounds), pool.sat, arm.pretrain_from)
        num_views = 2 if arm.pretrain_from == "views" else 1
        return num_views * estimated_seconds(before, {NODE: site}, self.num_threads, self.clock)

    def _finished(self, cells: list[_Cell], jobs: int) -> Iterator[CellRow]:
        """Rows as they come. No more than `jobs` are under way, so that an error ends the study soon."""
        left = iter(cells)
        running: set[Future[CellRow]] = set()
        with ThreadPoolExecutor(jobs) as threads:
            while True:
                while len(running) < jobs and (cell := next(left, None)) is not None:
                    running.add(threads.submit(self._run, cell))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()

    def _run(self, cell: _Cell) -> CellRow:
        scenario, arm, seed = cell.key
        arguments = [self.folder.path, cell.scenario, arm, seed, self.num_threads]
        command = [sys.executable, "-m", "hsl_study.cell_process", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing."])[-1]
            raise CellFailedError(cell=f"{scenario}/{arm}/{seed}", status=done.returncode, said=said)
        return CellRow.model_validate_json(done.stdout)
