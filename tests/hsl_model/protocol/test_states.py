import itertools
from collections.abc import Mapping
from enum import StrEnum

import pytest

from hsl_model.protocol.errors import IllegalTransitionError
from hsl_model.protocol.states import (
    PARTICIPATION_TRANSITIONS,
    PHASE_TRANSITIONS,
    ROUND_TRANSITIONS,
    RUN_TRANSITIONS,
    NodePhase,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
    check_transition,
    sources_of,
)

TABLES: list[tuple[Mapping, type[StrEnum], StrEnum]] = [
    (RUN_TRANSITIONS, RunStatus, RunStatus.DRAFT),
    (ROUND_TRANSITIONS, RoundStatus, RoundStatus.OPEN),
    (PARTICIPATION_TRANSITIONS, ParticipationStatus, ParticipationStatus.ASSIGNED),
    (PHASE_TRANSITIONS, NodePhase, NodePhase.IDLE),
]


@pytest.mark.parametrize(("table", "states", "first"), TABLES)
def test_every_state_is_listed_and_can_be_reached(table, states, first) -> None:
    assert set(table) == set(states)
    reached, frontier = {first}, [first]
    while frontier:
        for target in table[frontier.pop()] - reached:
            reached.add(target)
            frontier.append(target)
    assert reached == set(states)


@pytest.mark.parametrize(("table", "states", "first"), TABLES)
def test_check_and_sources_agree_with_the_table_on_every_pair(table, states, first) -> None:
    for source, target in itertools.product(states, states):
        allowed = target in table[source]
        assert (source in sources_of(table, target)) == allowed
        if allowed:
            check_transition(table, source, target)
        else:
            with pytest.raises(IllegalTransitionError):
                check_transition(table, source, target)


def test_ended_runs_and_rounds_stay_ended() -> None:
    for status in (RunStatus.COMPLETED, RunStatus.STOPPED, RunStatus.FAILED):
        assert not RUN_TRANSITIONS[status]
    for status in (RoundStatus.COMPLETED, RoundStatus.FAILED, RoundStatus.CANCELLED):
        assert not ROUND_TRANSITIONS[status]


def test_idle_and_failed_are_reachable_from_every_phase_so_that_stopping_always_works() -> None:
    for phase in NodePhase:
        if phase is not NodePhase.IDLE:
            assert NodePhase.IDLE in PHASE_TRANSITIONS[phase]
        if phase is not NodePhase.FAILED:
            assert NodePhase.FAILED in PHASE_TRANSITIONS[phase]
