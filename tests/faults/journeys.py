"""A transfer as the agent makes it: after each failure anew, when its policy says so, until done or given up.

The waits are virtual: the policy is a pure value, so its minutes cost nothing here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import FailureKind, RetryPolicy
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.sftp import SftpExchange
from tests.embedded_hub.helpers import Hub, Login

POLICY = RetryPolicy()
MOST_TRIES = 40
Move = Callable[[SftpExchange], object]


@dataclass
class Journey:
    """What a transfer went through. `waited_s`: virtual seconds between the tries."""

    failures: list[ExchangeError] = field(default_factory=list)
    waited_s: float = 0.0
    done: bool = False

    @property
    def kinds(self) -> list[FailureKind]:
        return [failure.kind for failure in self.failures]


class Node:
    """A node whose line leads to `port`. Keeps its connection, and drops it after a failure, as the agent does."""

    def __init__(self, hub: Hub, login: Login, port: int, stall_s: float = 30.0) -> None:
        self.hub, self.login, self.port, self.stall_s = hub, login, port, stall_s
        self.node_id = login.node_id
        self._exchange: SftpExchange | None = None

    @property
    def address(self) -> HubAddress:
        return self.hub.address(self.login, port=self.port)

    @property
    def exchange(self) -> SftpExchange:
        if self._exchange is None:
            self._exchange = SftpExchange(self.address, self.login.key, self.node_id, self.stall_s)
        self._exchange._link.stall_s = self.stall_s
        return self._exchange

    def drop(self) -> None:
        if self._exchange is not None:
            self._exchange.close()
        self._exchange = None

    def once(self, move: Move) -> ExchangeError | None:
        """One try. Whatever goes wrong is said in a sentence that names no library and no path."""
        failure = None
        try:
            move(self.exchange)
        except ExchangeError as error:
            failure = error
            self.drop()
        assert failure is None or failure.sentence().endswith("."), failure.sentence()
        assert failure is None or "Exception" not in failure.sentence(), failure.sentence()
        return failure

    def travel(self, move: Move, before_try: Callable[[int], object] = lambda number: None) -> Journey:
        """`before_try` is called with 0, 1, …: it breaks and mends things."""
        journey = Journey()
        for number in range(MOST_TRIES):
            before_try(number)
            error = self.once(move)
            if error is None:
                journey.done = True
                return journey
            journey.failures.append(error)
            delay_s = POLICY.delay_s(number, error.kind, 0.5)
            if delay_s is None:
                return journey
            journey.waited_s += delay_s
        raise AssertionError(f"{MOST_TRIES} tries were not enough: {journey.kinds}")
