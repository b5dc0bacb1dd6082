"""Which points there are, which of them are struck, and how often.

A run that nobody disturbs is recorded some times, since the order of its threads is never quite the same. A kind of
point (role, phase, step) is struck at its first and at its last occurrence. All sites do the same work, so one of them
is struck in every round; the one that builds the initial weights is struck in round 0 as well.
"""

import random
from collections.abc import Iterable, Sequence

from tests.crash.points import Harm, Point, Strike

ORDINARY, BUILDER = "site-2", "site-1"
SIZES = (36, 12, 12, 6)  # strikes in a run, and in the next tries for those that were not met


def is_struck(point: Point) -> bool:
    return point.role in ("coordinator", "hub", ORDINARY) or (point.role == BUILDER and point.round_number == 0)


def first_and_last(recordings: Sequence[Sequence[Point]]) -> list[Point]:
    """Of each kind the first point and the last that every recording with this kind has reached."""
    found: dict[tuple[str, str, str], set[Point]] = {}
    for kind in {point.kind for points in recordings for point in points if is_struck(point)}:
        having = [[point for point in points if point.kind == kind and is_struck(point)] for points in recordings]
        having = [points for points in having if points]
        first = min(points[0].round_number for points in having)
        in_all = set.intersection(*(set(points) for points in having))
        chosen = {max(in_all, key=lambda point: (point.round_number, point.occurrence))} if in_all else set()
        chosen |= {next(point for points in having for point in points if point.round_number == first)}
        found[kind] = chosen
    return sorted(point for points in found.values() for point in points)


def every_occurrence(recordings: Sequence[Sequence[Point]]) -> list[Point]:
    return sorted(set.intersection(*({point for point in points if is_struck(point)} for points in recordings)))


def strikes(points: Iterable[Point], harm: Harm) -> list[tuple[Strike, ...]]:
    """One strike each. The hub has no power cut of its own from outside, and does not kill itself from outside."""
    return [(Strike(point, harm),) for point in points if harm is not Harm.HUB or point.role != "hub"]


def double(points: Sequence[Point], number: int, seed: int) -> list[tuple[Strike, ...]]:
    """Two crashes in one run, mostly of two machines."""
    draw = random.Random(seed)
    harms = (Harm.KILL, Harm.KILL, Harm.HUB)
    pairs = (draw.sample(points, 2) for _ in range(number))
    return [tuple(Strike(point, draw.choice(harms)) for point in pair) for pair in pairs]


def batches(single: Sequence[tuple[Strike, ...]], size: int) -> list[tuple[Strike, ...]]:
    """At most `size` strikes for each run, dealt like cards: neighbours (the same phase of the same process, which
    could take each other's turn) fall in different runs. Of one sort: a machine's disk is of one kind in a run."""
    batched = []
    for harm in Harm:
        of_harm = sorted(strike for one in single for strike in one if strike.harm is harm)
        number = -(-len(of_harm) // size)
        batched += [tuple(of_harm[start::number]) for start in range(number)]
    return batched
