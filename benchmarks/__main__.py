"""`python -m benchmarks [NAME...]`: run benchmarks and append their records."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.record import RESULTS, append

BENCHMARKS = {
    "fusion": "averaging updates from disk: speed per core, peak memory",
    "training_step": "a step of the published network against two bare ResNet-18 steps",
    "transfer": "94.9 MB to and from hubs near and far: our exchange, OpenSSH's sftp, stock Paramiko",
    "parallel": "94.9 MB over one channel, two channels, two connections, two processes",
    "round_overhead": "a round without training against the bare transfers of the same bytes, 2 and 4 nodes",
    "fusers": "bytes per node and seconds per round, all fuse against two do, 2 to 16 nodes",
    "longpoll": "200 to 1,000 nodes in a long poll: all told of a change, other requests meanwhile",
}
"""Name of the module -> what it measures."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON lines")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark {', '.join(unknown)}; choose from {', '.join(BENCHMARKS)}")
    missed = 0
    for name in chosen.names or BENCHMARKS:
        print(f"{name}: {BENCHMARKS[name]}", flush=True)
        for record in importlib.import_module(f"benchmarks.{name}").measure():
            append(name, record, chosen.results)
            missed += record.get("target_met") is False
            print("  " + json.dumps(record), flush=True)
    if missed:
        print(f"{missed} targets were missed", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
