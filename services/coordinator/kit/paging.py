"""Pages of lists: `offset` and `limit` in the query, `Page[...]` in the answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from hsl_model.protocol.views import Page

MAX_LIMIT = 500  # one request cannot make the coordinator build an answer of a whole table
Row = TypeVar("Row")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Paging:
    offset: int
    limit: int


async def _paging(
    offset: Annotated[int, Query(ge=0, le=2**31 - 1, description="items to skip")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="items to return at most")] = 50,
) -> Paging:
    return Paging(offset, limit)


PagingDep = Annotated[Paging, Depends(_paging)]


def page_of(session: Session, query: Select[Row], paging: Paging, view: Callable[[Row], Item]) -> Page[Item]:
    """One page of an ordered query, each row shown by `view`."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    rows: Any = session.scalars(query.offset(paging.offset).limit(paging.limit))
    items = tuple(view(row) for row in rows)
    return Page[Any](items=items, total=total, offset=paging.offset, limit=paging.limit)
