"""The guarded move: the only way a status changes (rule 2).

`UPDATE ... SET status = target WHERE key AND status IN (allowed sources)`: of two requests that want to move the same
row one changes it and the other changes nothing, reads again and finds out why.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import CursorResult, inspect, update
from sqlalchemy.orm import Session

from coordinator.tables import Base
from hsl_model.protocol.errors import IllegalTransitionError
from hsl_model.protocol.states import (
    MEMBERSHIP_TRANSITIONS,
    PARTICIPATION_TRANSITIONS,
    ROUND_TRANSITIONS,
    RUN_TRANSITIONS,
    MembershipStatus,
    ParticipationStatus,
    RoundStatus,
    RunStatus,
)

_TABLES: Mapping[type[StrEnum], Mapping[Any, frozenset[Any]]] = {
    RunStatus: RUN_TRANSITIONS,
    RoundStatus: ROUND_TRANSITIONS,
    MembershipStatus: MEMBERSHIP_TRANSITIONS,
    ParticipationStatus: PARTICIPATION_TRANSITIONS,
}

Key = str | tuple[str | int, ...]


def guarded_update(
    session: Session,
    row_class: type[Base],
    key: Key,
    allowed_sources: Iterable[StrEnum],
    target: StrEnum,
    **values: object,
) -> bool:
    """Move one row and set `values` with it; False when its status was none of `allowed_sources` (or no such row).

    `key` is the primary key, a tuple in the order of the columns where there are several. A move that the transition
    table does not know is a mistake of the caller: `IllegalTransitionError`. A loaded row object shows the new values.
    """
    sources = tuple(allowed_sources)
    for source in sources:
        if source != target and target not in _TABLES.get(type(target), {}).get(source, {target}):
            raise IllegalTransitionError(source=source.value, target=target.value)
    identity = key if isinstance(key, tuple) else (key,)
    mapper = inspect(row_class)
    table = row_class.__table__.c
    statement = (
        update(row_class)
        .where(*(column == value for column, value in zip(mapper.primary_key, identity, strict=True)))
        .where(table.status.in_([source.value for source in sources]))
        .values(status=target.value, **values)
    )
    result = cast("CursorResult[Any]", session.execute(statement))
    loaded = session.identity_map.get(mapper.identity_key_from_primary_key(identity))
    if loaded is not None:
        session.refresh(loaded)
    return bool(result.rowcount == 1)
