"""The agent dies before or after it has written any phase to its journal, and ends with the same models.

A `BaseException` from a wrapped phase takes the daemon down exactly there: nothing behind that point has happened.
"""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.facts import RoundFacts
from node_agent.journal import Journal
from node_agent.phases import PHASES, PhaseFunction
from tests.node_agent.alliance import Alliance, make_config
from tests.node_agent.helpers import Hospital


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """PHASES that die in each phase of each round: before it does anything, and when it is done but not written.

    Then it may pass.
    """

    def __init__(self, when: Collection[str], rounds: Collection[int]) -> None:
        self.when, self.rounds = when, rounds
        self.killed: list[tuple[int, NodePhase, str]] = []

    def phases(self) -> Mapping[NodePhase, PhaseFunction]:
        return {phase: partial(self._call, phase) for phase in PHASES}

    def _call(self, phase: NodePhase, context: Context, facts: RoundFacts) -> Any:
        self._die_once(facts.round_number, phase, "before")
        result = PHASES[phase](context, facts)
        self._die_once(facts.round_number, phase, "after")
        return result

    def _die_once(self, round_number: int, phase: NodePhase, when: str) -> None:
        point = (round_number, phase, when)
        if when in self.when and round_number in self.rounds and point not in self.killed:
            self.killed.append(point)
            raise Killed(point)


def undisturbed(folder: Path, method: str) -> tuple[dict[int, str], list[dict[str, Any]]]:
    alliance = Alliance(folder, make_config(method, num_rounds=1))
    with Hospital(folder / "a", alliance).join().running():
        alliance.wait(lambda: alliance.finished)
    return alliance.history, [body["validation"] for body in alliance.asked("/fusion") if body["validation"]]


@pytest.mark.parametrize(
    ("method", "when", "rounds"),
    [
        ("swarm", ("before", "after"), (1,)),
        ("swarm", ("after",), (0,)),
        ("personalised", ("after",), (1,)),
        ("fedbn", ("after",), (1,)),
    ],
)
def test_killed_in_every_phase_the_run_ends_with_the_same_models(
    tmp_path: Path, method: str, when: tuple[str, ...], rounds: tuple[int, ...]
) -> None:
    history, validations = undisturbed(tmp_path / "quiet", method)
    alliance = Alliance(tmp_path, make_config(method, num_rounds=1))
    hospital, killer = Hospital(tmp_path / "a", alliance).join(), Killer(when, rounds)

    while not alliance.finished:
        with hospital.running(killer.phases()):
            alliance.wait(lambda: hospital.failure or alliance.finished)
        if hospital.failure is not None:
            assert isinstance(hospital.failure, Killed), killer.killed[-1]
            assert hospital.row().phase is killer.killed[-1][1]  # nothing was written
            hospital.failure = None

    visited = {(phase, moment) for _, phase, moment in killer.killed}
    # WAITING is never left by returning, and not entered when the plan is there at once; round 0 is not trained.
    elsewhere = {NodePhase.WAITING} | ({NodePhase.TRAINING} if rounds == (0,) else set())
    assert visited >= {(phase, moment) for phase in set(PHASES) - elsewhere for moment in when}
    assert len(alliance.boots) == len(killer.killed) + 1
    assert alliance.history == history
    assert {body["fused_digest"] for body in alliance.asked("/fusion")} == set(history.values())
    final = [body["validation"] for body in alliance.asked("/fusion") if body["validation"]]
    assert [final[0], final[-1]] == validations  # each may have been said more than once


def test_killed_inside_the_journals_own_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last instant before COMMIT: the row is the old one, and the phase is simply done again."""
    alliance = Alliance(tmp_path, make_config(num_rounds=1))
    hospital = Hospital(tmp_path / "a", alliance).join()
    move = Journal.move

    def dying(self: Journal, phase: NodePhase, facts: RoundFacts | None) -> None:
        with self.transaction():
            move(self, phase, facts)
            if phase is NodePhase.FUSING and facts is not None and facts.round_number == 1:
                monkeypatch.undo()
                raise Killed

    monkeypatch.setattr(Journal, "move", dying)
    with hospital.running():
        alliance.wait(lambda: hospital.failure)
    assert hospital.row().phase is NodePhase.VERIFYING
    with hospital.running():
        alliance.wait(lambda: alliance.finished)
    assert len(alliance.history) == 2
