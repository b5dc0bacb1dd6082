"""Fusion of 2, 8 and 32 updates of the published network (94.9 MB each): speed per core, and peak memory.

Each case runs in a process of its own, whose growth in peak memory is the fusion's. Beside it, in turn, the plainest
things that can be done with the same bytes: read all inputs into one buffer and write one model; copy as many bytes in
memory. The fusion reads, computes in float64, writes, hashes what it writes, and makes it durable.
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, Record, alternate, rounded_median
from hsl_model import durable
from hsl_model.averaging import FusionInput, fuse

TARGET_GB_PER_S = 1.0  # of input, per second of processor time
TARGET_MEMORY = 1.3  # of one model
NODES = (2, 8, 32)
DISTINCT = 4  # files; more nodes than that read the same ones again, all from the page cache
REPEATS = 7
BUFFER_BYTES = 1 << 20
MEMORY_BYTES = 1 << 27  # larger than any cache


def measure() -> Iterator[Record]:
    with tempfile.TemporaryDirectory() as folder:
        model_bytes = _write_updates(Path(folder))
        for num_nodes in NODES:
            yield _figures(_in_own_process(Path(folder), num_nodes), num_nodes, model_bytes)


def _write_updates(folder: Path) -> int:
    """Updates with the tensors of the published network; the size of one."""
    import torch

    from hsl_model.checkpoint import write_tensors
    from hsl_model.network import build_network
    from hsl_model.protocol.config import NetworkConfig

    with torch.device("meta"):
        state = build_network(NetworkConfig(), "mmoe", 3).state_dict()
    size = 0
    for index in range(DISTINCT):
        random = np.random.default_rng(index)
        size = write_tensors(
            folder / f"{index}.safetensors",
            {
                name: random.standard_normal(tuple(tensor.shape), dtype=np.float32)
                if tensor.dtype.is_floating_point
                else np.array(index, np.int64)
                for name, tensor in state.items()
            },
        ).num_bytes
    return size


def _in_own_process(folder: Path, num_nodes: int) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.fusion", str(folder), str(num_nodes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _figures(measured: dict[str, object], num_nodes: int, model_bytes: int) -> Record:
    input_gb = num_nodes * model_bytes / 1e9
    wall_s, cpu_s = measured["wall_s"], measured["cpu_s"]
    assert isinstance(wall_s, dict)
    assert isinstance(cpu_s, dict)
    speed = round(input_gb / cpu_s["fusion"], 2)
    memory = round(float(str(measured["peak_growth_bytes"])) / model_bytes, 3)
    return {
        "case": f"{num_nodes} nodes",
        "model_bytes": model_bytes,
        "repeats": REPEATS,
        "fusion_s": wall_s["fusion"],
        "fusion_cpu_s": cpu_s["fusion"],
        "input_gb_per_s": round(input_gb / wall_s["fusion"], 2),
        "input_gb_per_cpu_s": speed,
        "read_and_write_s": wall_s["read_and_write"],
        "read_and_write_cpu_s": cpu_s["read_and_write"],
        "memory_copy_s": wall_s["memory_copy"],
        "peak_memory_in_models": memory,
        "target": f"input_gb_per_cpu_s >= {TARGET_GB_PER_S}, peak_memory_in_models <= {TARGET_MEMORY}",
        "target_met": speed >= TARGET_GB_PER_S and memory <= TARGET_MEMORY,
    }


# --- in the process that is measured ---------------------------------------------------------------------------------


def _measured(folder: Path, num_nodes: int) -> dict[str, object]:
    paths = [folder / f"{index % DISTINCT}.safetensors" for index in range(num_nodes)]
    inputs = [FusionInput(f"node-{index:02}", path, 1 / num_nodes) for index, path in enumerate(paths)]
    before = _peak_bytes()
    fuse(inputs, folder / "fused")
    growth = _peak_bytes() - before
    numbers = itertools.count()  # a new file each time, as in a round: replacing one would free the old one's pages
    taken = alternate(
        {
            "fusion": lambda: fuse(inputs, folder / f"fused-{next(numbers)}"),
            "read_and_write": _read_and_write(paths, folder / "copy"),
            "memory_copy": _memory_copy(sum(path.stat().st_size for path in paths)),
        },
        REPEATS,
    )
    return {
        "wall_s": {name: rounded_median(wall_s) for name, (wall_s, _) in taken.items()},
        "cpu_s": {name: rounded_median(cpu_s) for name, (_, cpu_s) in taken.items()},
        "peak_growth_bytes": growth,
    }


def _read_and_write(paths: list[Path], output: Path) -> Callable[[], None]:
    buffer = memoryview(bytearray(BUFFER_BYTES))

    def work() -> None:
        temporary = output.with_name("copy.tmp")
        with temporary.open("wb") as target:
            for index, path in enumerate(paths):
                with path.open("rb", buffering=0) as source:
                    while count := source.readinto(buffer):
                        if index == 0:
                            target.write(buffer[:count])
        durable.publish(temporary, output)

    return work


def _memory_copy(num_bytes: int) -> Callable[[], None]:
    source, target = np.ones(MEMORY_BYTES, np.uint8), np.zeros(MEMORY_BYTES, np.uint8)

    def work() -> None:
        for first in range(0, num_bytes, MEMORY_BYTES):
            count = min(MEMORY_BYTES, num_bytes - first)
            np.copyto(target[:count], source[:count])

    return work


def _peak_bytes() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]), int(sys.argv[2]))))
