"""python -m tests.simulator --seeds 10000 [--first 0] [--record]     play many seeds
python -m tests.simulator --seed 123 [--steps 60] [--without KIND]   play one again, and show it
"""

import argparse
import sys

from tests.simulator.setting_up import forget_templates
from tests.simulator.shrink import shrunk, told
from tests.simulator.tally import Tally
from tests.simulator.world import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="play this one only")
    parser.add_argument("--steps", type=int, help="so many steps of chaos, instead of the seed's own")
    parser.add_argument("--without", action="append", default=[], help="a kind of fault to leave out")
    parser.add_argument("--record", action="store_true", help="append a line to benchmarks/results/reliability.jsonl")
    chosen = parser.parse_args()
    if chosen.seed is not None:
        outcome = simulate(chosen.seed, frozenset(chosen.without), chosen.steps)
        print(told(outcome, num_lines=400))
        return int(outcome.violation is not None)
    tally = Tally()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        outcome = tally.play(seed)
        if outcome.violation:
            print(told(shrunk(outcome)), flush=True)
    print(tally.summary())
    if chosen.record:
        from benchmarks.record import append

        append("reliability", {"part": "simulator", **tally.record()})
    return int(bool(tally.violated))


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        forget_templates()
