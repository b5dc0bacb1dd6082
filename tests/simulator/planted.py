"""Bugs that the simulator must find: name -> the functions it replaces, each with what makes the wrong from the right.

In the form of `tests/planted`: "package.module:name" of the module that looks the function up.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from coordinator.rounds import repository
from coordinator.rounds.opening import open_round

Make = Callable[[Any], Callable[..., Any]]


def fuses_a_subset(right: Any) -> Callable[..., Any]:
    """Everybody alike, so that the coordinator sees equal digests."""
    return lambda inputs, output, expected=None: right(inputs[:-1] or inputs, output, expected)


_twice: set[tuple[int, str]] = set()


def remembers_the_repeat(right: Any) -> Callable[..., Any]:
    def again(act: Any, newest: Any, row: Any, manifest: Any) -> Any:
        _twice.add((row.round_number, row.node_id))
        return right(act, newest, row, manifest)

    return again


def counts_repeats_twice(right: Any) -> Callable[..., Any]:
    def build(config: Any, newest: Any, rows: Any, version: int) -> Any:
        plan = right(config, newest, rows, version)
        repeated = [one for one in plan.entries if (newest.round_number, one.node_id) in _twice]
        _twice.clear()
        return plan.model_copy(update={"entries": (*plan.entries, *repeated)})

    return build


def opens_too_early(right: Any) -> Callable[..., Any]:
    """As soon as one member has reported."""

    def report(act: Any, node_id: str, run_id: str, round_number: int, said: Any) -> None:
        right(act, node_id, run_id, round_number, said)
        facts = repository.load(act.session, run_id)
        if facts is not None and facts.newest.status == "fusing" and facts.newest.round_number == 1:
            open_round(act, facts, 2)

    return report


def adds_events_later(right: Any) -> Callable[..., Any]:
    def append(session: Any, *args: Any, **kwargs: Any) -> Any:
        row = right(session, *args, **kwargs)
        session.expunge(row)
        session.info.setdefault("later", []).append(row)
        return row

    return append


def commits_events_later(right: Any) -> Callable[..., Any]:
    """In a transaction of their own, after the change they tell of."""

    @contextmanager
    def writing(database: Any) -> Iterator[Any]:
        with right(database) as session:
            yield session
        if later := session.info.pop("later", []):
            with right(database) as second:
                second.add_all(later)

    return writing


WRONG: dict[str, dict[str, Make]] = {
    "fuses a subset": {"node_agent.phases.fusing:fuse": fuses_a_subset},
    "counts a node twice after a repeated announce": {
        "coordinator.rounds.announce:_again": remembers_the_repeat,
        "coordinator.rounds.plan:_build": counts_repeats_twice,
    },
    "opens the next round before the last is complete": {"coordinator.rounds.fusion:report": opens_too_early},
    "commits before the event": {
        "coordinator.events.service:append": adds_events_later,
        "coordinator.db:Database.writing": commits_events_later,
    },
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        for where, make in WRONG[name].items():
            target = where.replace(":", ".")
            module, _, path = where.partition(":")
            right = __import__(module, fromlist=["x"])
            for part in path.split("."):
                right = getattr(right, part)
            stack.enter_context(mock.patch(target, make(right)))
        yield
