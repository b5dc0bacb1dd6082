"""Seeds of the simulator: coordinator and agents as they are, everything around them drawn.

A failing seed is printed with its way there and the command that plays it again; `make simulate` plays more.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulator.planted import WRONG, planted
from tests.simulator.setting_up import forget_templates
from tests.simulator.shrink import shrunk, told
from tests.simulator.tally import Tally
from tests.simulator.world import Outcome, simulate

ROOT = Path(__file__).parents[2]
NUM_SEEDS, NUM_LONG = 20, 10_000
FOUND_WITHIN = 200  # seeds


@pytest.fixture(scope="module", autouse=True)
def templates() -> Iterator[None]:
    yield
    forget_templates()


def play(first: int, number: int) -> None:
    tally = Tally()
    for seed in range(first, first + number):
        outcome = tally.play(seed)
        if outcome.violation is not None:
            pytest.fail(told(shrunk(outcome)))
    print(tally.summary())


def test_every_seed_is_safe_and_ends() -> None:
    play(0, NUM_SEEDS)


@pytest.mark.long
@pytest.mark.timeout(8 * 3600)
def test_ten_thousand_seeds_are_safe_and_end() -> None:
    play(NUM_SEEDS, NUM_LONG)


# Shown only by a death between two commits, or by an announce that is repeated before the freeze.
SELDOM = ("commits before the event", "counts a node twice after a repeated announce")
NAMES = [pytest.param(name, marks=pytest.mark.long) if name in SELDOM else name for name in WRONG]


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_bug_is_found(name: str) -> None:
    with planted(name):
        found = next((o for o in map(simulate, range(FOUND_WITHIN)) if o.violation is not None), None)
    assert found is not None, "no seed has noticed"
    print(f"{name}: seed {found.seed}: {found.violation}")


def test_a_seed_is_the_same_history_in_another_process() -> None:
    """Whatever the order of its sets: a seed that fails in CI fails on any machine."""
    code = "from tests.simulator.world import simulate; o = simulate(5); print(o.num_steps, o.virtual_s, o.digest)"
    lines = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    here = simulate(5)
    assert lines == {f"{here.num_steps} {here.virtual_s} {here.digest}\n"}


def test_a_failing_seed_is_made_smaller_and_plays_again() -> None:
    with planted("fuses a subset"):
        found = next(o for o in map(simulate, range(FOUND_WITHIN)) if o.violation is not None)
        small = shrunk(found)
        again: Outcome = simulate(small.seed, small.without, small.chaos_steps)
    assert small.violation
    assert small.num_steps <= found.num_steps
    assert again == small
    assert f"--seed {small.seed}" in told(small)
