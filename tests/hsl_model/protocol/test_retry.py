import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsl_model.protocol.retry import TRANSIENT, FailureKind, RetryPolicy


def test_the_table_knows_every_kind() -> None:
    assert set(TRANSIENT) == set(FailureKind)


@pytest.mark.parametrize("kind", [kind for kind in FailureKind if not TRANSIENT[kind]])
def test_permanent_failures_are_never_tried_again(kind: FailureKind) -> None:
    assert RetryPolicy().delay_s(0, kind, 0.5) is None


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_delays_grow_to_the_cap_and_stay_positive(attempt: int, u: float) -> None:
    policy = RetryPolicy(base_s=0.5, cap_s=30)
    delay = policy.delay_s(attempt, FailureKind.CONNECTION, u)
    assert delay is not None
    assert 0.25 <= delay <= 30
    assert delay == (0.5 + u / 2) * min(30, 0.5 * 2 ** min(attempt, 30))


def test_a_bounded_policy_gives_up_after_its_attempts() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert [policy.delay_s(n, FailureKind.TIMEOUT, 0.0) is None for n in range(4)] == [False, False, True, True]
