"""What is shown of a transfer: its speed over the last seconds, by the injected clock."""

import pytest

from hsl_model.protocol.clock import ManualClock
from node_agent.rate import WINDOW_S, Rate

MB = 1_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_rate_is_not_known_at_once_and_does_not_count_what_was_there(clock: ManualClock) -> None:
    rate = Rate(clock)
    assert rate.per_s(0) is None
    rate.add(40 * MB)  # resumed here
    clock.advance(0.5)
    rate.add(42 * MB)
    assert rate.per_s(42 * MB) is None
    clock.advance(0.5)
    assert rate.per_s(43 * MB) == pytest.approx(3 * MB)


def test_a_rate_is_that_of_the_last_seconds(clock: ManualClock) -> None:
    rate, done = Rate(clock), 0
    for speed, seconds in ((10 * MB, 60), (2 * MB, WINDOW_S + 1)):
        for _ in range(int(seconds * 100)):
            rate.add(done)
            clock.advance(0.01)
            done += speed // 100
    assert rate.per_s(done) == pytest.approx(2 * MB, rel=0.01)


def test_a_line_that_stands_still_is_shown_so(clock: ManualClock) -> None:
    rate = Rate(clock)
    rate.add(0)
    clock.advance(2)
    rate.add(10 * MB)
    for _ in range(int(2 * WINDOW_S)):  # asked once a second, while nothing moves
        clock.advance(1)
        rate.add(10 * MB)
    assert rate.per_s(10 * MB) == 0
