"""The errands about keys: this node's own while they are rotated, and those of others that changed."""

from collections.abc import Callable, Iterable
from functools import partial

import structlog

from hsl_model.protocol.messages import RosterEntry, RotateRequest
from hsl_model.protocol.retry import FailureKind
from node_agent import rotation
from node_agent.context import Context
from node_agent.enrol import load_identity
from node_agent.errors import Failure
from node_agent.peers import HUB, Held, fingerprint

logger = structlog.get_logger(__name__)


class KeyErrands:
    """Used by the errands' thread alone."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._said: set[Held] = set()
        self._is_hub_strange = False  # an errand met another host key than the pinned one

    def wanted(self) -> dict[str, Callable[[], bool]]:
        context, found = self._context, dict[str, Callable[[], bool]]()
        if (request := rotation.pending(context.settings)) is not None:
            found[f"rotate keys {request.token_sha256}"] = partial(self._rotate, request)
        elif context.identity.keys.ssh_key_before is not None:
            found["log in with the new key"] = self._settle
        failure = context.journal.current().failure
        if self._is_hub_strange or (failure is not None and failure.kind is FailureKind.HOST_KEY):
            found["ask for the hub's host key"] = self._ask_for_hub
        return found

    def look(self, roster: Iterable[RosterEntry]) -> None:
        """Take in rotations at once, and say once of each key that is held that it is."""
        context = self._context
        held = set(context.peers.look(roster).values())
        if (hub := context.peers.held_hub(context.identity.node.hub)) is not None:
            held.add(hub)
        for one in held - self._said:
            logger.warning(
                "a key waits for this site's admin", name=one.name, key=fingerprint(one.offered), reason=one.sentence
            )
        self._said = held

    def failed(self, failure: Failure) -> None:
        self._is_hub_strange = self._is_hub_strange or failure.kind is FailureKind.HOST_KEY
        if rotation.pending(self._context.settings) is not None:
            self._tell(f"New keys are ready, and the coordinator has not taken them yet: {failure.sentence}")

    # --- our own keys ------------------------------------------------------------------------------------------------

    def _rotate(self, request: RotateRequest) -> bool:
        context = self._context
        context.client.rotate(request)
        rotation.accept(context.settings)
        context.identity.take(load_identity(context.settings))
        logger.info("this node's keys were rotated", signing_key=fingerprint(request.signed.rotation.new))
        is_hub_next = context.identity.keys.ssh_key_before is not None
        self._tell("The new keys are in use; the hub is still to be told." if is_hub_next else None)
        return False  # the folder knows; the next rotation is another errand

    def _settle(self) -> bool:
        context = self._context
        context.hub.try_key(context.identity.keys.ssh_key)
        rotation.settled(context.settings)
        context.identity.take(load_identity(context.settings))
        context.hub.drop()
        logger.info("the hub lets the new key in")
        self._tell(None)
        return False

    def _tell(self, where: str | None) -> None:
        with self._context.mailbox.change():
            self._context.mailbox.rotation = where

    # --- the hub's ---------------------------------------------------------------------------------------------------

    def _ask_for_hub(self) -> bool:
        context = self._context
        context.peers.offer_hub(context.client.hub())
        self._is_hub_strange = False
        if context.peers.held_hub(context.identity.node.hub) is None:
            logger.error(
                "who answers as the hub shows another host key than the pinned one, which the coordinator knows too",
                name=HUB,
                key=fingerprint(context.identity.node.hub.host_key),
            )
        context.mailbox.nudge()
        return True
