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
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import structlog

from coordinator.db import Database
from coordinator.kernel import Kernel
from coordinator.kit.auth import digest_of
from coordinator.migrations.upgrade import upgrade_database
from coordinator.nodes import service as nodes
from coordinator.notifier import Notifier
from coordinator.rounds.moves import Act
from coordinator.runs import membership
from coordinator.runs import service as runs
from coordinator.tables import NodeRow
from hsl_model.checkpoint import sha256_file
from hsl_model.protocol.config import (
    ConvergenceConfig,
    InitialWeights,
    MethodConfig,
    QuorumConfig,
    RunConfig,
    TaskConfig,
)
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import AcceptRequest, ClassCounts, TruthCounts
from hsl_model.protocol.states import NodePhase, NodeStatus
from node_agent.consents import Answer
from node_agent.egress import verify
from tests.coordinator.conftest import settings_for
from tests.coordinator.fakes import MemoryHub
from tests.simulator.coordinator import Coordinator, SimulatedDatabase
from tests.simulator.faults import Faults
from tests.simulator.files import HubFolder
from tests.simulator.line import Line
from tests.simulator.oracle import Made, Oracle, Violation, require
from tests.simulator.scheduler import EPOCH, Scheduler
from tests.simulator.site import TASK_ID, Site, key_of, token_of
from tests.simulator.trainer import SimulatedTrainer

NODES = ("node-a", "node-b", "node-c", "node-d")
COUNTS = ClassCounts(positive=6, negative=4)
CALM_STEPS = 8000
CALM_S = 4 * 3600.0  # virtual: several deadlines, retries and the next holder's turn
RUN_ID = "run-00000001"
_WORK = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


@dataclass(frozen=True)
class Plan:
    """What a seed is about."""

    config: RunConfig
    chaos_steps: int
    late_joiner: str | None

    @classmethod
    def of(cls, seed: int) -> "Plan":
        rng = random.Random(f"plan {seed}")
        names = NODES[: rng.choice((2, 3, 3, 3, 3, 3, 3, 4))]
        deadline_s = rng.choice((None, 200.0, 600.0))
        config = RunConfig(
            name="simulated",
            task=TaskConfig(
                task_id=TASK_ID, positive_class="p", negative_class="n", modality="radiograph", height=16, width=16
            ),
            nodes=names,
            method=MethodConfig(name=rng.choice(("swarm", "swarm", "fedavg", "fedbn", "personalised", "local"))),
            num_rounds=rng.choice((1, 2, 2, 3)),
            convergence=ConvergenceConfig(enabled=False),
            quorum=QuorumConfig(min_nodes=rng.randint(1, len(names))),
            initial=InitialWeights(seed=1),
            round_deadline_s=deadline_s,
            report_deadline_s=None if deadline_s is None else rng.choice((None, 150.0, 600.0)),
        )
        late = rng.choice(names) if rng.random() < 0.15 and config.quorum.min_nodes < len(names) else None
        return cls(config, rng.choice((60, 150, 300, 300, 600)), late)


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
        path = _templates() / "coordinator.db"
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(template(self.plan), path)
        self.coordinator = Coordinator(_opened(path), self.scheduler, self.hub)
        self.coordinator.fuse.left = None
        self.made: dict[str, Made] = {}
        self.sites = {name: self._site(name, folder) for name in self.plan.config.nodes}
        self.oracle = Oracle(path, self.plan.config.method.name, self.made)
        self.revoked: set[str] = set()
        self.stopped = False

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
            self._disturb()
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

    # --- chaos -------------------------------------------------------------------------------------------------------

    def _disturb(self) -> None:
        faults, scheduler = self.faults, self.scheduler
        up = [site for site in self.sites.values() if site.is_up]
        if up and faults.strikes("agent crash"):
            site = faults.draw("agent crash").choice(up)
            site.die()
            self._later(faults.draw("agent crash").choice((0.0, 5.0, 60.0, 400.0)), site.start, site.node_id)
        if self.coordinator.is_up and self.coordinator.fuse.left is None and faults.strikes("coordinator crash"):
            self.coordinator.fuse.left = faults.draw("coordinator crash").randint(1, 6)
        if not self.coordinator.is_up and "coordinator" not in {task.owner for task in scheduler.tasks}:
            self._later(faults.draw("coordinator crash").choice((0.0, 5.0, 60.0)), self._revive, "coordinator")
        if not self.hub.is_down and faults.strikes("hub down"):
            self.hub.is_down = True
            self._later(faults.draw("hub down").uniform(10, 300), self._hub_up, "hub")
        if faults.strikes("clock jumps"):
            scheduler.now_s += faults.draw("clock jumps").choice((1.0, 30.0, 250.0))
        self._disturb_files()
        self._people()

    def _later(self, delay_s: float, work: Any, owner: str) -> None:
        def wait_and_work() -> None:
            self.scheduler.sleep(delay_s)
            work()

        self.scheduler.start(
            f"starter of {owner}" if owner != "coordinator" else owner, f"start {owner}", wait_and_work
        )

    def _revive(self) -> None:
        if not self.coordinator.is_up:
            self.coordinator.start()

    def _hub_up(self) -> None:
        self.hub.is_down = False

    def _disturb_files(self) -> None:
        if self.faults.strikes("file vanished") and (files := self.hub.files()):
            path = self.faults.draw("file vanished").choice(files)
            if path.suffix != ".safetensors" or _is_intact(self.sites[path.parent.name].folder / "store" / path.name):
                path.unlink()
                self.scheduler.note(f"hub: {path.parent.name}/{path.name[:8]} vanishes")
        if self.faults.strikes("bit rot at a site"):
            site = self.faults.draw("bit rot at a site").choice(list(self.sites.values()))
            if files := sorted((site.folder / "store").glob("*.safetensors")):
                path = self.faults.draw("bit rot at a site").choice(files)
                if _is_intact(self.hub.folder(site.node_id) / path.name) or self._is_anothers(site, path):
                    self._rot(site, path)

    def _is_anothers(self, site: Site, path: Path) -> bool:
        """The last copy that its owner has is spared: with that gone only people can help."""
        made = self.made.get(path.stem)
        return made is not None and made.node_id not in (site.node_id, "")

    def _rot(self, site: Site, path: Path) -> None:
        """The last byte of a tensor: still finite, still of its shape. Other names of the file keep theirs."""
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 1
        path.unlink()
        path.write_bytes(raw)
        self.oracle.spoilt.add(site.node_id)
        self.scheduler.note(f"{site.node_id}: {path.name[:8]} rots")

    def _people(self) -> None:
        faults, sites = self.faults, list(self.sites.values())
        if faults.strikes("run paused"):
            self._admin(runs.pause)
            self._later(faults.draw("run paused").uniform(5, 400), lambda: self._admin(runs.resume), "run")
        if faults.strikes("site paused"):
            site = faults.draw("site paused").choice(sites)
            site.set_paused(True)
            self._later(faults.draw("site paused").uniform(5, 300), lambda: site.set_paused(False), "pause")
        if faults.strikes("site withdraws"):
            site = faults.draw("site withdraws").choice(sites)
            site.asked_to_withdraw = True
            site.answer(RUN_ID, Answer.WITHDRAW)
            self.scheduler.note(f"{site.node_id}: withdraws")
        if faults.strikes("node revoked"):
            node_id = faults.draw("node revoked").choice(sites).node_id
            if self._with_kernel(lambda kernel: nodes.revoke(kernel, node_id)):
                self.revoked.add(node_id)
                self.scheduler.note(f"admin: revokes {node_id}")
        if faults.strikes("run stopped"):
            self.stopped = self._admin(runs.stop) or self.stopped

    def _admin(self, move: Any) -> bool:
        return self._with_kernel(lambda kernel: runs.moved(kernel, "admin", RUN_ID, move))

    def _with_kernel(self, work: Any) -> bool:
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

    # --- calm --------------------------------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Everybody is there and does what the sentences of the waiting states ask for."""
        self.hub.is_down = False
        self.coordinator.fuse.left = None
        self._revive()
        for site in self.sites.values():
            site.line.down_until_s = 0.0
            if not site.is_up:
                site.start()
            if site.row().phase is NodePhase.FAILED:
                site.retry()
            if site.journal is not None and site.journal.paused:
                site.set_paused(False)
        if self.status == "paused":
            self._admin(runs.resume)
        for node_id in self._column("SELECT node_id FROM nodes WHERE duplicate_at IS NOT NULL"):
            self._with_kernel(lambda kernel, node_id=node_id: _release(kernel, node_id))
        if self.plan.late_joiner is not None:
            site = self.sites[self.plan.late_joiner]
            if not site.asked_to_withdraw and self.member(site.node_id) == "invited":
                site.answer(RUN_ID, Answer.ACCEPT)

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


def _is_intact(path: Path) -> bool:
    return path.exists() and sha256_file(path) == path.stem


def _release(kernel: Kernel, node_id: str) -> None:
    with kernel.transaction() as session:
        nodes.release(kernel, session, node_id)


# --- setting up ------------------------------------------------------------------------------------------------------

_TEMPLATES: dict[str, Path] = {}


def template(plan: Plan) -> Path:
    """A database in which everybody is enrolled and has accepted and the run has just been started; made once."""
    key = f"{plan.late_joiner} {plan.config.model_dump_json()}"
    if key not in _TEMPLATES:
        path = _templates() / f"{len(_TEMPLATES)}.db"
        if "" not in _TEMPLATES:
            _TEMPLATES[""] = _templates() / "empty.db"
            database = Database(f"sqlite:///{_TEMPLATES['']}")
            upgrade_database(database)
            _close(database)
        shutil.copyfile(_TEMPLATES[""], path)
        _set_up(f"sqlite:///{path}", plan)
        _TEMPLATES[key] = path
    return _TEMPLATES[key]


def _templates() -> Path:
    if "folder" not in _TEMPLATES:
        _TEMPLATES["folder"] = Path(tempfile.mkdtemp(prefix="hsl-simulator-", dir=_WORK))
    return _TEMPLATES["folder"]


_DATABASES: dict[Path, SimulatedDatabase] = {}


def _opened(path: Path) -> SimulatedDatabase:
    if path not in _DATABASES:
        _DATABASES[path] = SimulatedDatabase(f"sqlite:///{path}")
    return _DATABASES[path]


def forget_templates() -> None:
    if "folder" in _TEMPLATES:
        shutil.rmtree(_TEMPLATES["folder"])
    _TEMPLATES.clear()


def _set_up(url: str, plan: Plan) -> None:
    scheduler = Scheduler(random.Random(0))
    kernel = Kernel(settings_for(url), scheduler, Database(url), MemoryHub(), Notifier())
    with kernel.transaction() as session:
        for name in plan.config.nodes:
            session.add(
                NodeRow(
                    node_id=name,
                    display_name=name,
                    status=NodeStatus.ENROLLED.value,
                    signing_public_key=public_key_text(key_of(name)),
                    token_hash=digest_of(token_of(name)),
                    hub_ready_at=EPOCH,
                    created_at=EPOCH - timedelta(days=1),
                )
            )
        session.flush()
        act = Act(session, EPOCH, "admin")
        with mock.patch("coordinator.runs.service.secrets.token_hex", return_value=RUN_ID.removeprefix("run-")):
            runs.create(act, plan.config)
        counts = TruthCounts(training=COUNTS, validation=COUNTS, test=COUNTS)
        for name in plan.config.nodes:
            if name != plan.late_joiner:
                membership.accept(act, name, RUN_ID, AcceptRequest(counts=counts))
        runs.start(act, RUN_ID)
    _close(kernel.database)


def _close(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    database.close()


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
    folder = Path(tempfile.mkdtemp(prefix="hsl-seed-", dir=_WORK))
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
