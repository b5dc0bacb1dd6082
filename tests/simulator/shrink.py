"""Less of a failing seed: fewer steps of chaos, fewer kinds of faults, and still a violation."""

from tests.simulator.faults import KINDS
from tests.simulator.world import Outcome, simulate


def shrunk(found: Outcome) -> Outcome:
    """The smallest outcome this comes to; each try is one seed played again."""
    best = found
    for kind in [kind for kind in KINDS if found.faults[kind]]:
        tried = simulate(found.seed, best.without | {kind}, best.chaos_steps)
        best = tried if tried.violation else best
    steps = best.chaos_steps
    while steps > 20:
        steps = steps * 2 // 3
        tried = simulate(found.seed, best.without, steps)
        if not tried.violation:
            break
        best = tried
    return best


def told(found: Outcome, num_lines: int = 60) -> str:
    """The seed, what it broke, the way there, and the command that plays it again."""
    skipped = "".join(f" --without {kind!r}" for kind in sorted(found.without))
    return "\n".join(
        [
            f"seed {found.seed}: {found.violation}",
            f"after {found.num_steps} steps, with {dict(found.faults)}",
            *found.trace[-num_lines:],
            f"again: python -m tests.simulator --seed {found.seed} --steps {found.chaos_steps}{skipped}",
        ]
    )
