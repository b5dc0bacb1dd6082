"""One thread's connection to the hub: opened when needed, dropped after an error or when it lay unused."""

from collections.abc import Callable
from pathlib import Path

from hsl_model.protocol.clock import Clock
from node_agent.egress import EgressLedger, GuardedExchange
from node_agent.enrol import Identity
from node_agent.exchange.base import Exchange

# Firewalls forget idle connections without a word; the next request on one would hang until its timeout.
UNUSED_S = 60.0


class HubConnection:
    """`open_exchange`: with the private key to log in with; one connection tries one key."""

    def __init__(
        self, open_exchange: Callable[[Path], Exchange], identity: Identity, ledger: EgressLedger, clock: Clock
    ) -> None:
        self._open = open_exchange
        self._identity = identity
        self._ledger = ledger
        self._clock = clock
        self._exchange: GuardedExchange | None = None
        self._used_at_s = 0.0

    def get(self) -> GuardedExchange:
        now_s = self._clock.monotonic()
        if self._exchange is not None and now_s - self._used_at_s > UNUSED_S:
            self.drop()
        if self._exchange is None:
            self._exchange = GuardedExchange(self._open(self._identity.keys.hub_key), self._ledger)
        self._used_at_s = now_s
        return self._exchange

    def try_key(self, key: Path) -> None:
        """Log in with this key, on a connection of its own. Raises what stands in the way."""
        exchange = self._open(key)
        try:
            exchange.list_own()
        finally:
            exchange.close()

    def drop(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
