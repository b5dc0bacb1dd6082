"""Where figures go: one JSON line per record, with all that is needed to read it later."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from hsl_model.protocol.clock import SystemClock

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "torch", "torchvision", "paramiko", "asyncssh", "cryptography", "fastapi", "sqlalchemy", "uvicorn")

Record = Mapping[str, object]


def append(name: str, record: Record, results: Path = RESULTS) -> None:
    """Add one line to `results/<name>.jsonl`."""
    results.mkdir(parents=True, exist_ok=True)
    line = {"benchmark": name, **record, **circumstances()}
    with (results / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def circumstances() -> dict[str, object]:
    """Machine, versions and commit. The load tells whether the machine had other work to do."""
    return {
        "at": SystemClock().now().isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "modified": bool(_git("status", "--porcelain")),
        "machine": {
            "processor": _processor(),
            "num_cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "system": platform.platform(),
            "load": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **_versions()},
    }


def alternate(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each piece of work, by name. One after the other, over and over, so that whatever else
    the machine does falls on all of them alike; the first turn is not counted."""
    taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in work}
    for turn in range(repeats + 1):
        for name, do in work.items():
            wall_s, cpu_s = perf_counter(), process_time()
            do()
            wall_s, cpu_s = perf_counter() - wall_s, process_time() - cpu_s
            if turn:
                taken[name][0].append(wall_s)
                taken[name][1].append(cpu_s)
    return taken


def rounded_median(values: Sequence[float], digits: int = 4) -> float:
    return round(median(values), digits)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
