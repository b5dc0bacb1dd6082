"""One thread's connection to the hub: opened when needed, dropped after an error or when it lay unused."""

from collections.abc import Callable

from hsl_model.protocol.clock import Clock
from node_agent.egress import EgressLedger, GuardedExchange
from node_agent.exchange.base import Exchange

# Firewalls forget idle connections without a word; the next request on one would hang until its timeout.
UNUSED_S = 60.0


class HubConnection:
    def __init__(self, open_exchange: Callable[[], Exchange], ledger: EgressLedger, clock: Clock) -> None:
        self._open = open_exchange
        self._ledger = ledger
        self._clock = clock
        self._exchange: GuardedExchange | None = None
        self._used_at_s = 0.0

    def get(self) -> GuardedExchange:
        now_s = self._clock.monotonic()
        if self._exchange is not None and now_s - self._used_at_s > UNUSED_S:
            self.drop()
        if self._exchange is None:
            self._exchange = GuardedExchange(self._open(), self._ledger)
        self._used_at_s = now_s
        return self._exchange

    def drop(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
