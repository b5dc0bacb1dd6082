"""200 rounds by real processes, as fast as they go: coordinator, embedded hub, two agents whose child trains nothing.

What grows with the rounds is told: memory and descriptors of coordinator and agents, threads, and every file. An update
has 256 KiB, so that one that is kept by mistake in each round, in memory or on a disk, is far above what may grow.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.counting import counter_of
from tests.e2e.alliance import Alliance, digests

NUM_ROUNDS = 200
SETTLED = 50  # rounds until caches, pools and the allocator have what they need
SITES = ("site-1", "site-2")
UPDATE_BYTES = 256 << 10
# Bytes a round. Memory: pools, caches and tables of names still fill. Disk: ledgers, a row for each message and event,
# are kept for ever; the models are not.
MOST_A_ROUND = {"memory": 60_000, "folder": 15_000, "database": 20_000}
MOST_MORE = 4  # descriptors or threads: what happened to be under way when one looked
pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    yield from counter_of(request, "soak")


@dataclass
class Samples:
    """Of one process or folder, by round."""

    rounds: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, round_number: int, value: float) -> None:
        self.rounds.append(round_number)
        self.values.append(value)

    def slope(self) -> float:
        """Per round, since all had settled."""
        since = next(index for index, number in enumerate(self.rounds) if number >= SETTLED)
        assert len(self.rounds) - since > 30, "too few samples to say anything"
        return float(np.polyfit(self.rounds[since:], self.values[since:], 1)[0])

    def growth(self) -> float:
        since = next(index for index, number in enumerate(self.rounds) if number >= SETTLED)
        return self.values[-1] - self.values[since]


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def watched(alliance: Alliance) -> dict[str, int]:
    """Process ids of the services themselves; a child that trains is the tests' own."""
    found = {name: service.process for name, service in alliance.services.items()}
    return {name: process.pid for name, process in found.items() if process is not None}


class Soak:
    def __init__(self, alliance: Alliance, run_id: str) -> None:
        self.alliance, self.run_id = alliance, run_id
        self.processes = {name: psutil.Process(pid) for name, pid in watched(alliance).items()}
        self.samples: dict[str, Samples] = {}

    def look(self) -> bool:
        """Once a round. True when the run is over."""
        run = self.alliance.run(self.run_id)
        number = run.round_number or 0
        if number > (self.samples["round"].rounds[-1] if self.samples else -1) and run.status == "running":
            self._add("round", number, number)
            for name, process in self.processes.items():
                self._add(f"memory of {name}", number, process.memory_full_info().uss)
                self._add(f"descriptors of {name}", number, process.num_fds())
                self._add(f"threads of {name}", number, process.num_threads())
            for name in (*self.alliance.node_ids, "hub"):
                self._add(f"folder of {name}", number, self._size(self.alliance.root / name))
            database = self.alliance.root.glob("coordinator.db*")
            self._add("database", number, sum(path.stat().st_size for path in database))
        return run.status not in ("running", "draft")

    def _size(self, folder: Path) -> int:
        try:
            return size(folder)
        except FileNotFoundError:  # removed while we looked
            return self._size(folder)

    def _add(self, name: str, number: int, value: float) -> None:
        self.samples.setdefault(name, Samples()).add(number, value)


def test_200_rounds(tmp_path: Path, counted: Counter[str]) -> None:
    specs = tmp_path / "specs.json"
    specs.write_text(json.dumps([{"name": "weight", "dtype": "F32", "shape": [UPDATE_BYTES // 4]}]))
    trainer = json.dumps([sys.executable, "-m", "benchmarks.bare_trainer"])
    environment = {"HSL_NODE_TRAINER_COMMAND": trainer, "HSL_BENCH_SPECS": str(specs)}
    alliance = Alliance(
        tmp_path / "alliance",
        num_sites=len(SITES),
        agent_environment=dict.fromkeys(SITES, environment),
        coordinator_module="tests.faults.tidying_coordinator",
    )
    with alliance:
        alliance.start()
        run_id = alliance.create_run(num_rounds=NUM_ROUNDS)
        alliance.start_run(run_id)
        soak = Soak(alliance, run_id)
        alliance.wait_until(soak.look, "the run to end")
        rounds = alliance.wait_for_end(run_id)
        assert len(digests(rounds)) >= 100
    slopes = {name: samples.slope() for name, samples in soak.samples.items() if name != "round"}
    growths = {name: samples.growth() for name, samples in soak.samples.items()}
    print(json.dumps({name: round(slope) for name, slope in slopes.items()}, indent=1))
    for name, slope in slopes.items():
        kind = name.split()[0]
        if kind in MOST_A_ROUND:
            assert slope < MOST_A_ROUND[kind], f"{name} grows by {slope:.0f} bytes a round"
        else:
            assert growths[name] <= MOST_MORE, f"{name}: {growths[name]:.0f} more since round {SETTLED}"
    counted["rounds"] += NUM_ROUNDS
