"""One seed: an alliance is set up, runs among faults for a while, and then everybody behaves.

chaos    faults strike at every crossing; people pause, withdraw, revoke                 safety after every step
calm     no new faults, everybody is started, resumed, retried, released                 safety, and an end in time
"""

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from coordinator.kernel import Kernel
from coordinator.nodes import service as nodes
from coordinator.runs import service as runs
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.states import NodePhase
from node_agent.consents import Answer
from node_agent.egress import verify
from tests.simulator.chaos import Chaos
from tests.simulator.coordinator import Coordinator
from tests.simulator.faults import Faults
from tests.simulator.files import HubFolder
from tests.simulator.line import Line
from tests.simulator.oracle import Made, Oracle, Violation, require
from tests.simulator.scheduler import Scheduler
from tests.simulator.setting_up import RUN_ID, WORK, Plan, fresh_database
from tests.simulator.site import Site
from tests.simulator.trainer import SimulatedTrainer

CALM_STEPS = 8000
CALM_S = 4 * 3600.0  # virtual: several deadlines, retries and the next holder's turn


@dataclass
class Outcome:
    seed: int
    without: frozenset[str] = frozenset()
    chaos_steps: int = 0
    status: str = ""
    reason: str | None = None
    num_steps: int = 0
    num_rounds: int = 0
    virtual_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violation: str | None = None
    trace: tuple[str, ...] = ()
    digest: str = ""  # of the ledger: who did what, when, in which order


class World:
    def __init__(
        self, seed: int, folder: Path, without: frozenset[str] = frozenset(), steps: int | None = None
    ) -> None:
        self.plan = Plan.of(seed)
        self.chaos_steps = self.plan.chaos_steps if steps is None else steps
        self.rng = random.Random(f"order {seed}")
        self.scheduler = Scheduler(random.Random(f"schedule {seed}"))
        pace = random.Random(f"pace {seed}")
        self.scheduler.eagerness = {
            role: pace.choice((1.0, 0.1, 0.02, 0.02)) for role in ("poller", "heartbeat", "errands")
        }
        self.faults = Faults(seed, without)
        self.hub = HubFolder(folder / "hub")
        path, database = fresh_database(self.plan)
        self.coordinator = Coordinator(database, self.scheduler, self.hub)
        self.coordinator.fuse.left = None
        self.made: dict[str, Made] = {}
        self.sites = {name: self._site(name, folder) for name in self.plan.config.nodes}
        self.oracle = Oracle(path, self.plan.config.method.name, self.made)
        self.revoked: set[str] = set()
        self.stopped = False
        self._chaos = Chaos(self)

    def _site(self, name: str, folder: Path) -> Site:
        self.hub.ensure_node(name)
        line = Line(name, self.coordinator, self.faults, self.scheduler)
        return Site(name, folder / name, self.hub, line, self.faults, self.scheduler)

    # --- one seed ----------------------------------------------------------------------------------------------------

    def play(self) -> None:
        self.coordinator.start()
        for site in self.sites.values():
            site.start()
        while not self.is_over() and self.scheduler.num_steps < self.chaos_steps:
            self._chaos.step()
            self._step()
        self.faults.over = True
        self.scheduler.note("calm from here on")
        begun_s = self.scheduler.now_s
        for turn in range(CALM_STEPS):
            if turn % 20 == 0:
                if self.is_settled():
                    break
                self._calm()
            if self.scheduler.now_s - begun_s > CALM_S:
                break
            self._step()
        if not self.is_settled():
            raise Violation(f"a run ends when faults end: {self.describe()}")
        self._check_end()

    def _step(self) -> None:
        self.scheduler.step()
        self.oracle.look()

    # --- calm --------------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Everybody is there and does what the sentences of the waiting states ask for."""
        self.hub.is_down = False
        self.coordinator.fuse.left = None
        self.revive()
        for site in self.sites.values():
            site.line.down_until_s = 0.0
            if not site.is_up:
                site.start()
            if site.row().phase is NodePhase.FAILED:
                site.retry()
            if site.journal is not None and site.journal.paused:
                site.set_paused(False)
        if self.status == "paused":
            self.admin(runs.resume)
        for node_id in self._column("SELECT node_id FROM nodes WHERE duplicate_at IS NOT NULL"):
            self.with_kernel(lambda kernel, node_id=node_id: _release(kernel, node_id))
        if self.plan.late_joiner is not None:
            site = self.sites[self.plan.late_joiner]
            if not site.asked_to_withdraw and self.member(site.node_id) == "invited":
                site.answer(RUN_ID, Answer.ACCEPT)

    # --- what people do at the coordinator ---------------------------------------------------------------------------

    def revive(self) -> None:
        if not self.coordinator.is_up:
            self.coordinator.start()

    def admin(self, move: Any) -> bool:
        return self.with_kernel(lambda kernel: runs.moved(kernel, "admin", RUN_ID, move))

    def with_kernel(self, work: Any) -> bool:
        """Whether the admin was answered."""
        kernel = self.coordinator.kernel
        if kernel is None:
            return False
        fuse, self.coordinator.fuse.left = self.coordinator.fuse.left, None
        try:
            work(kernel)
        except HslError as error:
            self.scheduler.note(f"admin: {error.code}")
            return False
        finally:
            self.coordinator.fuse.left = fuse
        return True

    # --- where it stands ---------------------------------------------------------------------------------------------

    def _column(self, query: str) -> list[Any]:
        return [row[0] for row in self.oracle._db.execute(query).fetchall()]

    @property
    def status(self) -> str:
        return str(self._column("SELECT status FROM runs")[0])

    def member(self, node_id: str) -> str:
        return str(self._column(f"SELECT status FROM members WHERE node_id = '{node_id}'")[0])

    def is_over(self) -> bool:
        return self.oracle.statuses.get(("run", None, None)) in ("completed", "stopped", "failed")

    def is_settled(self) -> bool:
        """The run is over, and every site has heard it."""
        if not self.is_over():
            return False
        for site in self.sites.values():
            if site.node_id in self.revoked:
                continue
            if not site.is_up or site.row().facts is not None:
                return False
            if site.settings.run_folder(RUN_ID).exists() and self.member(site.node_id) != "invited":
                return False
        return True

    def describe(self) -> str:
        rows = {name: site.row() for name, site in self.sites.items() if site.is_up}
        where = {
            name: f"{row.phase}/{row.facts.round_number if row.facts else '-'}: {self.sites[name].mailbox.waiting}"
            for name, row in rows.items()
        }
        newest = self.oracle._all("SELECT round_number, status, plan_version FROM rounds ORDER BY 1 DESC LIMIT 1")
        return f"run {self.status}, round {[tuple(row) for row in newest]}, {where}"

    def close(self) -> None:
        for owner in {task.owner for task in self.scheduler.tasks}:
            self.scheduler.kill(owner)
        for site in self.sites.values():
            if site.journal is not None:
                site.journal.close()
        self.coordinator.close()
        self.oracle.close()

    # --- the end -----------------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        """What is left when all is over: justified, tidy, and the same everywhere."""
        status = self.status
        reason = self._column("SELECT reason FROM runs")[0]
        left = {name for name in self.sites if self.member(name) == "withdrawn"} | self.revoked
        if status == "failed":
            unusable = "not usable" in str(reason)
            require(unusable or len(left) >= len(self.sites) - (self.plan.late_joiner is not None), "failed", reason)
        if status == "stopped":
            require(self.stopped, "only an admin stops a run")
        if status == "completed":
            require(len(self.oracle.closed) == self.plan.config.num_rounds + 1, "all rounds were fused")
        for site in self.sites.values():
            assert site.journal is not None
            verify(site.journal)
            parts = [path.name for path in (site.folder / "store").iterdir() if path.suffix != ".safetensors"]
            require(site.node_id in self.revoked or not parts, "nothing half-finished is left", site.node_id, parts)
            hub_parts = [path.name for path in self.hub.folder(site.node_id).glob("*.part")]
            require(site.node_id in self.revoked or not hub_parts, "no part is left on the hub", site.node_id)


def _release(kernel: Kernel, node_id: str) -> None:
    with kernel.transaction() as session:
        nodes.release(kernel, session, node_id)


@contextmanager
def quiet() -> Iterator[None]:
    """Without logs: ten thousand seeds would write gigabytes of warnings about what is meant to happen."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    try:
        yield
    finally:
        structlog.configure(**before)


def simulate(seed: int, without: frozenset[str] = frozenset(), steps: int | None = None) -> Outcome:
    """Play one seed; the outcome tells what it found, and never depends on anything but the arguments."""
    folder = Path(tempfile.mkdtemp(prefix="hsl-seed-", dir=WORK))
    world = World(seed, folder, without, steps)
    outcome = Outcome(seed, without, world.chaos_steps)
    with (
        quiet(),
        mock.patch("node_agent.context.Trainer", SimulatedTrainer),
        mock.patch("node_agent.errands.Trainer", SimulatedTrainer),
        mock.patch.object(SimulatedTrainer, "faults", world.faults, create=True),
        mock.patch.object(SimulatedTrainer, "made", world.made, create=True),
    ):
        try:
            world.play()
        except Exception as error:  # noqa: BLE001 - whatever ends a program is what the seed has found
            outcome.violation = f"{type(error).__name__}: {error}"
        outcome.status = str(world.oracle.statuses.get(("run", None, None)))
        outcome.digest = world.oracle.ledger_digest()
        world.close()
    outcome.trace = tuple(world.scheduler.trace)
    outcome.num_rounds = len(world.oracle.closed)
    outcome.num_steps, outcome.virtual_s = world.scheduler.num_steps, world.scheduler.now_s
    outcome.faults = world.faults.counts
    shutil.rmtree(folder)
    return outcome
