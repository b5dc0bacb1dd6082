"""Opening a round: who is in it is decided here, once. Whoever accepts later is in the next one."""

from collections.abc import Sequence
from datetime import timedelta

from coordinator.rounds.facts import RunFacts
from coordinator.rounds.moves import Act
from coordinator.tables import ParticipationRow, RoundRow
from hsl_model.protocol.states import ParticipationStatus, RoundStatus


def open_round(act: Act, facts: RunFacts, round_number: int) -> None:
    members = facts.can_join()
    deadline_s = facts.config.round_deadline_s
    act.session.add(
        RoundRow(
            run_id=facts.run.run_id,
            round_number=round_number,
            status=RoundStatus.OPEN.value,
            opened_at=act.now,
            deadline_at=None if deadline_s is None else act.now + timedelta(seconds=deadline_s),
        )
    )
    act.note(f"round.{RoundStatus.OPEN}", facts.run.run_id, round_number, num_members=len(members))
    add_members(act, facts.run.run_id, round_number, members)


def add_members(act: Act, run_id: str, round_number: int, node_ids: Sequence[str]) -> None:
    for node_id in node_ids:
        act.session.add(
            ParticipationRow(
                run_id=run_id,
                round_number=round_number,
                node_id=node_id,
                status=ParticipationStatus.ASSIGNED.value,
            )
        )
        act.note(f"participation.{ParticipationStatus.ASSIGNED}", run_id, round_number, node_id)
    act.session.flush()
