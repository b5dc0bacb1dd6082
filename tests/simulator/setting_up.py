"""What a seed is about, and the database it begins with: everybody is enrolled and has accepted, the run began."""

import random
import shutil
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from unittest import mock

from coordinator.db import Database
from coordinator.kernel import Kernel
from coordinator.kit.auth import digest_of
from coordinator.migrations.upgrade import upgrade_database
from coordinator.notifier import Notifier
from coordinator.rounds.moves import Act
from coordinator.runs import membership
from coordinator.runs import service as runs
from coordinator.tables import NodeRow
from hsl_model.protocol.config import (
    ConvergenceConfig,
    InitialWeights,
    MethodConfig,
    QuorumConfig,
    RunConfig,
    TaskConfig,
)
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import AcceptRequest, ClassCounts, TruthCounts
from hsl_model.protocol.states import NodeStatus
from tests.coordinator.conftest import settings_for
from tests.coordinator.fakes import MemoryHub
from tests.simulator.coordinator import SimulatedDatabase
from tests.simulator.scheduler import EPOCH, Scheduler
from tests.simulator.site import TASK_ID, key_of, token_of

NODES = ("node-a", "node-b", "node-c", "node-d")
COUNTS = ClassCounts(positive=6, negative=4)
RUN_ID = "run-00000001"
WORK = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


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


_MADE: dict[str, Path] = {}


def template(plan: Plan) -> Path:
    """A database in which everybody is enrolled and has accepted and the run has just been started; made once."""
    key = f"{plan.late_joiner} {plan.config.model_dump_json()}"
    if key not in _MADE:
        path = _folder() / f"{len(_MADE)}.db"
        if "" not in _MADE:
            _MADE[""] = _folder() / "empty.db"
            database = Database(f"sqlite:///{_MADE['']}")
            upgrade_database(database)
            _close(database)
        shutil.copyfile(_MADE[""], path)
        _set_up(f"sqlite:///{path}", plan)
        _MADE[key] = path
    return _MADE[key]


def _folder() -> Path:
    if "folder" not in _MADE:
        _MADE["folder"] = Path(tempfile.mkdtemp(prefix="hsl-simulator-", dir=WORK))
    return _MADE["folder"]


_DATABASES: dict[Path, SimulatedDatabase] = {}


def fresh_database(plan: Plan) -> tuple[Path, SimulatedDatabase]:
    """A copy of the template, always in the same place: what SQLAlchemy has compiled for the last seed stays."""
    path = _folder() / "coordinator.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(template(plan), path)
    if path not in _DATABASES:
        _DATABASES[path] = SimulatedDatabase(f"sqlite:///{path}")
    return path, _DATABASES[path]


def forget_templates() -> None:
    if "folder" in _MADE:
        shutil.rmtree(_MADE["folder"])
    _MADE.clear()


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
