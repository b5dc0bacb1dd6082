"""How many places a test tries: some in `make test`, many in `make faults`, every one in `make test-long`."""

from collections.abc import Iterable, Sequence

import pytest


def levels(some: Sequence[object], many: Sequence[object], every: Sequence[object] = ()) -> list[object]:
    """For `pytest.mark.parametrize`. A larger level leaves out what the smaller ones try."""
    more = [place for place in many if place not in some]
    rest = [place for place in every if place not in some and place not in more]
    found = ((list(some), "some", ()), (more, "many", pytest.mark.faults), (rest, "every", pytest.mark.long))
    return [pytest.param(places, id=name, marks=marks) for places, name, marks in found if places]


def around(edges: Iterable[int], below: int) -> list[int]:
    """Each edge, the byte before and the byte behind it, as far as they are in (0, `below`)."""
    return sorted({place for edge in edges for place in (edge - 1, edge, edge + 1) if 0 < place < below})


def stretch(num_bytes: int, num_places: int) -> list[int]:
    """Places spread over `num_bytes`, the first and the last byte among them."""
    return sorted({1 + (num_bytes - 1) * number // max(1, num_places - 1) for number in range(num_places)})
