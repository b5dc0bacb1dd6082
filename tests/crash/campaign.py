"""Kill the alliance at every durable step in turn, and cut its power there; say whether one bit came out different.

python -m tests.crash                 every kind of point, first and last occurrence; several strikes in a run
python -m tests.crash --sample 24     so many strikes, drawn from all
python -m tests.crash --hub sftpgo    the real hub, which dies as a whole; its own steps are not points
python -m tests.crash --long          every occurrence, and the first and last in a run of their own

record ─> choose ─> batches ─> what was not met, again in smaller ones
                      └─ a batch that ends wrong ─> its halves, and so on: which strike was it?
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from hsl_model.protocol.clock import SystemClock
from tests.crash import plan, power
from tests.crash.fleet import Fleet, new_root, scale_down
from tests.crash.points import Harm, Point, Strike
from tests.crash.run import Outcome, Run

SEED = 1
NUM_DOUBLE = 24
NUM_RECORDINGS = 4
HARMS = (Harm.KILL, Harm.HUB, Harm.POWER, Harm.NAMES)


@dataclass
class Verdict:
    """What is said at the end."""

    planned: dict[Harm, set[Strike]] = field(default_factory=lambda: {harm: set() for harm in HARMS})
    met: dict[Harm, set[Strike]] = field(default_factory=lambda: {harm: set() for harm in HARMS})
    num_points: int = 0
    num_double: int = 0
    num_runs: int = 0
    num_struck: int = 0
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        return {
            "points": self.num_points,
            "kills": len(self.met[Harm.KILL]),
            "hub_kills": len(self.met[Harm.HUB]),
            "power_cuts": len(self.met[Harm.POWER]) + len(self.met[Harm.NAMES]),
            "double_crashes": self.num_double,
            "not_met": sum(len(self.planned[harm] - self.met[harm]) for harm in HARMS),
            "runs": self.num_runs,
            "strikes": self.num_struck,
            "failures": len(self.failures),
        }


# --- workers ---------------------------------------------------------------------------------------------------------

_fleet: Fleet | None = None


def _begin(root: str, hub_kind: Literal["embedded", "sftpgo"]) -> None:
    global _fleet  # noqa: PLW0603 - a worker is a process that has one fleet
    scale_down()
    folder = Path(tempfile.mkdtemp(dir=root))
    _fleet = Fleet(folder, hub_kind)
    _fleet.make_template()


def _run(name: str, strikes: tuple[Strike, ...], recording: bool) -> Outcome:
    assert _fleet is not None
    return Run(_fleet, name, strikes, recording=recording).outcome()


@contextlib.contextmanager
def workers(number: int, hub_kind: str = "embedded") -> Iterator[Executor]:
    root = new_root()
    try:
        with ProcessPoolExecutor(number, get_context("fork"), _begin, (str(root), hub_kind)) as pool:
            yield pool
    finally:
        shutil.rmtree(root, ignore_errors=True)


# --- the whole -------------------------------------------------------------------------------------------------------


class Campaign:
    def __init__(self, pool: Executor, options: argparse.Namespace) -> None:
        self._pool, self._options = pool, options
        self._clock = SystemClock()
        self.verdict = Verdict()
        self._right: tuple[str, ...] = ()

    def record(self) -> list[list[Point]]:
        number = 2 if self._options.sample or self._options.only else NUM_RECORDINGS
        outcomes = self._outcomes([()] * number, recording=True)
        self._right = outcomes[0].digests
        for outcome in outcomes:
            assert outcome.error is None, outcome.error
            assert outcome.digests == self._right, "undisturbed runs differ"
        assert len(set(self._right)) == len(self._right), "a round that changes nothing proves nothing"
        return [outcome.points for outcome in outcomes]

    def strike(self, recordings: Sequence[Sequence[Point]]) -> None:
        options = self._options
        points = plan.every_occurrence(recordings) if options.long else plan.first_and_last(recordings)
        points = [point for point in points if re.search(options.only, str(point))]
        self.verdict.num_points = len(points)
        harms = [harm for harm in HARMS if harm in options.harms]
        single = [one for harm in harms for one in plan.strikes(points, harm)]
        if options.sample:
            single = random.Random(SEED).sample(single, min(options.sample, len(single)))
        for (strike,) in single:
            self.verdict.planned[strike.harm].add(strike)
        for size in (1, 1, 1) if options.alone or options.long else plan.SIZES:
            missing = [(s,) for harm in HARMS for s in sorted(self.verdict.planned[harm] - self.verdict.met[harm])]
            self._judge(self._outcomes(plan.batches(missing, size)))
            if options.until_wrong and self.verdict.failures:
                return
        if not options.sample and not options.only:
            pairs = plan.double(points, NUM_DOUBLE * (10 if options.long else 1), SEED)
            outcomes = self._outcomes(pairs)
            self.verdict.num_double = sum(outcome.num_struck == 2 for outcome in outcomes)
            self._judge(outcomes)

    def _judge(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            wrong = self._what_is_wrong(outcome)
            if wrong is None:
                continue
            if self._options.until_wrong:
                self.verdict.failures.append(f"{', '.join(map(str, outcome.strikes))}: {wrong}")
                continue
            self.verdict.failures += self._narrowed(outcome, wrong)

    def _narrowed(self, outcome: Outcome, wrong: str) -> list[str]:
        """Which of its strikes it was: each half again, and what is wrong of that, down to single ones."""
        if len(outcome.strikes) == 1:
            return [f"{outcome.strikes[0]}: {wrong}"]
        found = []
        for half in self._outcomes([outcome.strikes[::2], outcome.strikes[1::2]]):
            if (reason := self._what_is_wrong(half)) is not None:
                found += self._narrowed(half, reason)
        return found or [f"together only: {', '.join(map(str, outcome.strikes))}: {wrong}"]

    def _what_is_wrong(self, outcome: Outcome) -> str | None:
        if outcome.error is None and outcome.digests != self._right:
            return f"other weights: {outcome.digests} instead of {self._right}"
        return outcome.error

    def _outcomes(self, runs: Sequence[tuple[Strike, ...]], *, recording: bool = False) -> list[Outcome]:
        first = self.verdict.num_runs
        self.verdict.num_runs += len(runs)
        waiting = [
            self._pool.submit(_run, f"run-{first + number}", strikes, recording) for number, strikes in enumerate(runs)
        ]
        outcomes = []
        for one in waiting:
            outcome = one.result()
            outcomes.append(outcome)
            self.verdict.num_struck += outcome.num_struck
            for strike in outcome.struck:
                self.verdict.met[strike.harm].add(strike)
            if self._options.verbose:
                wrong = "" if recording else self._what_is_wrong(outcome) or ""
                print(f"{outcome.wall_s:5.1f} s  {outcome.num_struck}/{len(outcome.strikes)}  {wrong}", flush=True)
        return outcomes


CUTS = (Harm.POWER, Harm.NAMES)


def main() -> int:
    options = _options()
    if options.power and not power.is_preloaded():
        return _again_with_the_shim()
    began_s = SystemClock().monotonic()
    with workers(options.workers, options.hub) as pool:
        campaign = Campaign(pool, options)
        campaign.strike(campaign.record())
    verdict = campaign.verdict
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # not of training children whose agent was killed
    figures = {
        "hub": options.hub,
        **verdict.figures(),
        "wall_s": round(SystemClock().monotonic() - began_s, 1),
        "processor_s": round(spent.ru_utime + spent.ru_stime, 1),
        "workers": options.workers,
    }
    for harm in HARMS:
        for strike in sorted(verdict.planned[harm] - verdict.met[harm]):
            print(f"not met: {strike}")
    for failure in verdict.failures:
        print(f"FAILED {failure}")
    print(json.dumps(figures))
    if options.record:
        from benchmarks.record import append

        append("reliability", {"case": "crash points and power loss", "seed": SEED, **figures})
    return int(bool(verdict.failures))


def _again_with_the_shim() -> int:
    with tempfile.TemporaryDirectory() as folder:
        library = power.build(Path(folder))
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        again = [sys.executable, "-m", "tests.crash", *sys.argv[1:]]
        return subprocess.run(again, env=environment, check=False).returncode


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash")
    parser.add_argument("--sample", type=int, default=0, help="so many strikes instead of all")
    parser.add_argument("--only", default="", help="points whose name this expression finds")
    parser.add_argument("--harms", type=lambda text: [Harm(part) for part in text.split(",")], default=list(HARMS))
    parser.add_argument("--alone", action="store_true", help="one strike a run")
    parser.add_argument("--until-wrong", action="store_true", help="end there, and do not look which strike it was")
    parser.add_argument("--long", action="store_true", help="every occurrence; more double crashes")
    parser.add_argument("--hub", choices=("embedded", "sftpgo"), default="embedded")
    num_cores = len(os.sched_getaffinity(0))  # one worker more than that: runs also wait
    parser.add_argument("--workers", type=int, default=num_cores + 1)
    parser.add_argument("--record", action="store_true", help="add a line to benchmarks/results/reliability.jsonl")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    options.power = any(harm in CUTS for harm in options.harms)
    return options
