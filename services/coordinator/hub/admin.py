"""What the coordinator asks of any hub: one protocol, one conformance suite, an implementation per server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from hsl_model.protocol.errors import HslError
from hsl_model.protocol.messages import HubAddress


@dataclass(frozen=True)
class HubFile:
    name: str
    num_bytes: int


class HubAdmin(Protocol):
    """Every method can be repeated: done twice is done once. All but `healthy` raise `HubAdminError`."""

    def ensure_node(self, node_id: str) -> None:
        """Make the node's folder, then its user. Nobody can log in as it before `set_key`."""

    def set_key(self, node_id: str, ssh_public_key: str) -> None:
        """Let this key log in as the node, and no other; sessions of an older key end."""

    def cut(self, node_id: str) -> None:
        """Remove the key and end live connections before returning. Files stay; an unknown node is fine."""

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        """What lies in the node's folder, unfinished parts too, sorted by name; nothing for an unknown node."""

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        """Delete these files, of a node that was cut too; names that are gone already are fine."""

    def address(self, node_id: str) -> HubAddress:
        """What the node is told at its enrolment, with the host key to pin."""

    def healthy(self) -> bool:
        """Whether the hub answers, to us. Never raises."""


@dataclass(frozen=True)
class RosterAccount:
    """What the ledger says of a node. `ssh_public_key` None: not enrolled yet."""

    ssh_public_key: str | None
    is_revoked: bool


class DriftKind(StrEnum):
    """How an account on the hub differs from the ledger."""

    UNKNOWN = "unknown"  # the ledger has no such node
    REVOKED = "revoked"  # it could still log in
    MISSING = "missing"  # enrolled, and not on the hub
    CLOSED = "closed"  # enrolled, and cannot log in
    KEY = "key"  # another key than the node enrolled with
    RIGHTS = "rights"  # other permissions, limits or filters

    @property
    def is_cut(self) -> bool:
        """Whether the hub's admin cuts it by itself."""
        return self in (DriftKind.UNKNOWN, DriftKind.REVOKED)


@dataclass(frozen=True)
class Drift:
    username: str
    kind: DriftKind


@runtime_checkable
class ComparingHubAdmin(Protocol):
    """A hub whose users others can change as well, so that they are compared with the ledger."""

    def drift(self, roster: Callable[[], Mapping[str, RosterAccount]]) -> tuple[Drift, ...]:
        """The differences, after cutting who is unknown or revoked. Never opens or makes an account."""


class HubAdminError(HslError):
    """Base of what can go wrong between coordinator and hub."""


class HubDownError(HubAdminError):
    code = "hub_unreachable"
    http_status = 503
    title = "The hub does not answer"
    template = "The hub's admin API at {url} does not answer ({reason}). Is the hub running, and is the address right?"


class HubTokenError(HubAdminError):
    code = "hub_token_refused"
    http_status = 502
    title = "The hub refuses the coordinator"
    template = "The hub at {url} refuses our token: HSL_COORDINATOR_HUB_ADMIN_TOKEN must equal HSL_HUB_ADMIN_TOKEN."


class HubLoginError(HubTokenError):
    template = (
        "SFTPGo at {url} does not let the coordinator in: HSL_COORDINATOR_HUB_ADMIN_TOKEN must equal "
        "HSL_HUB_ADMIN_TOKEN, and HSL_HUB_COORDINATOR_ADDRESSES must hold the coordinator's address."
    )


class HubRefusedError(HubAdminError):
    code = "hub_refused"
    http_status = 502
    title = "The hub refused"
    template = "The hub refused to {action} {node_id}: {reason}"


class HubAnswerError(HubAdminError):
    code = "hub_answer_unknown"
    http_status = 502
    title = "The hub gave an unknown answer"
    template = "What answers at {url} is not the hub this coordinator knows (HTTP {status}); check the address."
