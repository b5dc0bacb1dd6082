"""A round of the published network (94.9 MB) without training, against the bare transfers of the same bytes.

Real processes on loopback: hub, coordinator, 2 or 4 agents; encrypted. The round is all that is not training or
validation: write the update, sign, upload, announce, wait, download, verify, fuse. The yardstick, right behind the
rounds, moves the same bytes by the same exchange to the same hub, all nodes at once, one process each.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import psutil

from benchmarks.record import ROOT, Record, rounded_median
from benchmarks.servers import sftpgo_environment, why_no_sftpgo
from hsl_model.checkpoint import write_tensors
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.states import NodePhase
from hsl_model.protocol.views import RoundView
from node_agent.enrol import load_identity
from node_agent.exchange import open_exchange
from tests.e2e.alliance import Alliance

NODES = (2, 4)
NUM_ROUNDS = 5
TARGET_RATIO = 1.4
MEASURED = tuple(phase for phase in NodePhase if phase not in (NodePhase.IDLE, NodePhase.ADOPTING, NodePhase.FAILED))


def measure() -> Iterator[Record]:
    for hub, absent in (("embedded", None), ("sftpgo", why_no_sftpgo())):
        if absent is not None:
            yield {"case": "skipped", "server": hub, "reason": absent}
            continue
        for num_nodes in NODES:
            with tempfile.TemporaryDirectory() as folder:
                yield _case(Path(folder), hub, num_nodes)


def _case(folder: Path, hub: str, num_nodes: int) -> Record:
    specs = folder / "specs.json"
    specs.write_text(json.dumps(_published_specs()))
    command = json.dumps([sys.executable, "-m", "benchmarks.bare_trainer"])
    environment = {"HSL_NODE_TRAINER_COMMAND": command, "HSL_BENCH_SPECS": str(specs)}
    names = [f"site-{number}" for number in range(1, num_nodes + 1)]
    alliance = Alliance(
        folder / "alliance",
        num_sites=num_nodes,
        agent_environment=dict.fromkeys(names, environment),
        hub_module=f"{hub}_hub",
        hub_environment={} if hub == "embedded" else sftpgo_environment(),
        coordinator_environment={"HSL_COORDINATOR_HUB_KIND": hub},
    )
    with alliance:
        alliance.start()
        run_id = alliance.create_run(num_rounds=NUM_ROUNDS)
        alliance.accept_everywhere(run_id)
        before_s = _cpu_s(alliance)
        alliance.post(f"/runs/{run_id}/start")
        rounds = [one for one in alliance.wait_for_end(run_id) if one.round_number > 0]
        cpu_s = _cpu_s(alliance) - before_s
        bare_s = [_bare(folder, alliance, turn) for turn in range(NUM_ROUNDS)]
    return {"case": f"{num_nodes} nodes, {hub} hub", "hub": hub, **_figures(rounds, bare_s, cpu_s)}


def _published_specs() -> list[dict[str, object]]:
    code = (
        "import json; from pathlib import Path; import torch; from hsl_model.network import build_network;"
        "from hsl_model.protocol.config import NetworkConfig\n"
        "with torch.device('meta'): state = build_network(NetworkConfig(), 'mmoe', 3).state_dict()\n"
        "print(json.dumps([{'name': name, 'dtype': 'F32' if t.dtype.is_floating_point else 'I64',"
        " 'shape': list(t.shape)} for name, t in sorted(state.items())]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def _cpu_s(alliance: Alliance) -> float:
    """Processor seconds of all processes of the alliance so far, training children included."""
    total = 0.0
    for service in alliance.services.values():
        assert service.process is not None
        process = psutil.Process(service.process.pid)
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _figures(rounds: list[RoundView], bare_s: list[float], cpu_s: float) -> Record:
    num_nodes = len(rounds[0].participations)
    update_bytes = rounds[0].participations[0].update_bytes or 0
    moved_gb = num_nodes * num_nodes * update_bytes / 1e9  # each uploads one and downloads the others'
    walls, phases = [], {phase: [] for phase in MEASURED}
    for one in rounds:
        seconds = [part.costs.phase_seconds for part in one.participations if part.costs is not None]
        walls.append(max(sum(each.get(phase, 0.0) for phase in MEASURED) for each in seconds))
        for phase in MEASURED:
            phases[phase].append(median(each.get(phase, 0.0) for each in seconds))
    ratio = round(median(walls) / median(bare_s), 3)
    return {
        "update_bytes": update_bytes,
        "repeats": len(rounds),
        "round_s": rounded_median(walls),
        "bare_transfers_s": rounded_median(bare_s),
        "ratio": ratio,
        "phase_s": {str(phase): rounded_median(values) for phase, values in phases.items()},
        "cpu_s_per_gb_moved": round(cpu_s / (moved_gb * (len(rounds) + 1)), 2),
        "target": f"ratio <= {TARGET_RATIO}",
        "target_met": ratio <= TARGET_RATIO,
    }


# --- the yardstick ---------------------------------------------------------------------------------------------------


def _bare(folder: Path, alliance: Alliance, turn: int) -> float:
    """All nodes put one file, then, when all are there, get the others'. Seconds for the slowest."""
    jobs = {}
    for index, node_id in enumerate(alliance.node_ids):
        path = folder / f"bare-{turn}-{node_id}.safetensors"
        values = np.random.default_rng((turn, index)).standard_normal(23_733_256, dtype=np.float32)
        jobs[node_id] = write_tensors(path, {"values": values})
    job = folder / "bare.json"
    listed = {node: [str(facts.path), facts.sha256, facts.num_bytes] for node, facts in jobs.items()}
    job.write_text(json.dumps(listed))
    total = 0.0
    for step in ("put", "get"):
        children = [_child(alliance, node_id, job, step) for node_id in alliance.node_ids]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
        began = perf_counter()
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        assert [child.wait() for child in children] == [0] * len(children)
        total += perf_counter() - began
    return total


def _child(alliance: Alliance, node_id: str, job: Path, step: str) -> subprocess.Popen[bytes]:
    workdir = str(alliance.settings(node_id).workdir)
    command = [sys.executable, "-m", "benchmarks.round_overhead", workdir, str(job), step]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class _Unwatched:
    def moved(self, done: int, total: int) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def _transfer(workdir: Path, job: Path, step: str) -> None:
    """One node's share, begun when stdin is closed."""
    from node_agent.settings import NodeSettings

    identity = load_identity(NodeSettings(workdir=workdir))
    hub: HubAddress = identity.node.hub
    exchange = open_exchange(hub, identity.keys.ssh_key, identity.node_id)
    exchange.list_own()  # connected: connecting is not what is measured
    print("ready", flush=True)
    sys.stdin.read()
    for node_id, (path, sha256, num_bytes) in json.loads(job.read_text()).items():
        if step == "put" and node_id == identity.node_id:
            exchange.put_tensors(Path(path), node_id, sha256, _Unwatched())
        if step == "get" and node_id != identity.node_id:
            exchange.get_tensors(node_id, sha256, num_bytes, workdir / f"bare-{sha256}", _Unwatched())
    exchange.close()


if __name__ == "__main__":
    _transfer(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
