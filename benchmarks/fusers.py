"""Bytes per node and seconds per round when every member fuses, and when two do: 2, 4, 8 and 16 nodes.

Real processes on loopback: hub, coordinator, agents with a child that trains nothing (`bare_trainer.py`); encrypted.
The model is small, so that sixteen agents fit on one machine: bytes are told in models. Both ways take their turn in
the same alliance, twice each, so that whatever else the machine does falls on both; each run has a seed of its own, or
its files would be at hand from the run before.

    all     a node sends 1 model and gets n - 1
    k = 2   a node sends 1 and gets 1; a fuser sends 1 more; fusers and audit get n - 1. On average below 3 + k.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.record import Record, rounded_median
from hsl_model.protocol.manifest import TensorSpec
from hsl_model.protocol.views import RoundView
from tests.e2e.alliance import Alliance

NODES = (2, 4, 8, 16)
NUM_FUSERS = 2
NUM_ROUNDS = 4
NUM_TURNS = 2
SPECS = tuple(TensorSpec(name=f"layer{number}.weight", dtype="F32", shape=(1024, 1024)) for number in range(2))  # 8 MB


def measure() -> Iterator[Record]:
    for num_nodes in NODES:
        with tempfile.TemporaryDirectory() as folder:
            yield from _case(Path(folder), num_nodes)


def _case(folder: Path, num_nodes: int) -> Iterator[Record]:
    specs = folder / "specs.json"
    specs.write_text(json.dumps([spec.model_dump(mode="json") for spec in SPECS]))
    command = json.dumps([sys.executable, "-m", "benchmarks.bare_trainer"])
    environment = {"HSL_NODE_TRAINER_COMMAND": command, "HSL_BENCH_SPECS": str(specs)}
    names = [f"site-{number}" for number in range(1, num_nodes + 1)]
    rounds: dict[str | int, list[RoundView]] = {"all": [], NUM_FUSERS: []}
    alliance = Alliance(folder / "alliance", num_sites=num_nodes, agent_environment=dict.fromkeys(names, environment))
    with alliance:
        alliance.start()
        for turn in range(NUM_TURNS):
            for number, (fusers, found) in enumerate(rounds.items()):
                seed = turn * len(rounds) + number
                run_id = alliance.create_run(num_rounds=NUM_ROUNDS, fusers=fusers, seed=seed)
                alliance.start_run(run_id)
                found += [one for one in alliance.wait_for_end(run_id) if one.round_number > 0]
    for fusers, found in rounds.items():
        yield _figures(num_nodes, fusers, found)


def _figures(num_nodes: int, fusers: str | int, rounds: Sequence[RoundView]) -> Record:
    update_bytes = rounds[0].participations[0].update_bytes or 0
    costs = [part.costs for one in rounds for part in one.participations if part.costs is not None]
    up, down = ([getattr(cost, name) / update_bytes for cost in costs] for name in ("bytes_up", "bytes_down"))
    models = mean(up) + mean(down)
    record = {
        "case": f"{num_nodes} nodes, fusers {fusers}, embedded hub",
        "num_nodes": num_nodes,
        "fusers": fusers,
        "num_fusing": len(voices) if (voices := rounds[0].plan.voices if rounds[0].plan else ()) else num_nodes,
        "update_bytes": update_bytes,
        "repeats": len(rounds),
        "models_per_node": round(models, 2),
        "models_up_per_node": round(mean(up), 2),
        "models_down_per_node": round(mean(down), 2),
        "models_of_busiest_node": round(max(a + b for a, b in zip(up, down, strict=True)), 2),
        "round_s": rounded_median([_seconds(one, whole=True) for one in rounds]),
        "freeze_to_end_s": rounded_median([_seconds(one, whole=False) for one in rounds]),
    }
    if fusers == "all":
        return record
    target = f"models_per_node <= {3 + NUM_FUSERS}"
    return {**record, "target": target, "target_met": models <= 3 + NUM_FUSERS}


def _seconds(one: RoundView, *, whole: bool) -> float:
    begun = one.opened_at if whole else one.frozen_at
    if begun is None or one.completed_at is None:
        raise ValueError(f"round {one.round_number} is not over")
    return (one.completed_at - begun).total_seconds()
