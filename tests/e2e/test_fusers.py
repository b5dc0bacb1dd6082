"""Two of four sites fuse for all, over real processes: the bits of a run in which all do, and fewer bytes."""

from collections.abc import Callable

import pytest

from hsl_model.protocol.views import RoundView
from tests.e2e.alliance import Alliance, digests

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]


def test_two_fusers_end_with_the_bits_of_all(new_alliance: Callable[..., Alliance]) -> None:
    alliance = new_alliance(num_sites=4)
    alliance.start()
    rounds: dict[str | int, list[RoundView]] = {}
    for fusers in (2, "all"):  # in this order: the files of the second run are at hand, for they are the same
        run_id = alliance.create_run(num_rounds=1, fusers=fusers)
        alliance.start_run(run_id)
        rounds[fusers] = alliance.wait_for_end(run_id)
    assert digests(rounds[2]) == digests(rounds["all"])
    one = rounds[2][1]
    assert one.plan is not None
    assert one.fused_digest != rounds[2][0].fused_digest
    assert len(one.plan.fusers) == 2
    update_bytes = one.plan.entries[0].update_bytes
    for part in one.participations:
        assert part.costs is not None
        num_got, num_sent = part.costs.bytes_down // update_bytes, part.costs.bytes_up // update_bytes
        assert num_got == (3 if one.plan.is_fused_by(part.node_id) else 1), part
        assert num_sent == (2 if part.node_id in one.plan.fusers else 1), part
