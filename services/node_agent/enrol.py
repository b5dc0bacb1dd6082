"""Joining an alliance: keys are made here, public halves and the one-time code leave, a token and the hub come back.

The private keys never leave. Asking again with the same code and keys is harmless until the token is first used, so a
reply lost on the way, or a crash before the token is on disk, costs nothing.
"""

from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import ValidationError

from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.config import Message, NodeId
from hsl_model.protocol.manifest import canonical_json
from hsl_model.protocol.messages import EnrolReply, EnrolRequest, HubAddress
from node_agent.coordinator_client import CoordinatorClient
from node_agent.egress import EgressLedger
from node_agent.errors import NotEnrolledError
from node_agent.journal import Journal
from node_agent.keys import NodeKeys, ensure_keys, load_keys
from node_agent.ledger_memory import LedgerMemory
from node_agent.private_files import private_folder, write_private
from node_agent.proxy import way_out
from node_agent.settings import NodeSettings

AGENT_VERSION = "0.1.0"
TOKEN = "token"  # noqa: S105 - the file's name


class NodeFile(Message):
    """`node.json`: what enrolment told us, without the token, which has a file of its own."""

    node_id: NodeId
    alliance: str
    coordinator_url: str
    hub: HubAddress


@dataclass
class Identity:
    """Who this node is. One object for all threads: a rotation of keys, or an admin's yes to another hub key, replaces
    what it holds while they work."""

    node: NodeFile
    token: str
    keys: NodeKeys

    @property
    def node_id(self) -> str:
        return self.node.node_id

    def take(self, now: "Identity") -> None:
        self.node, self.keys, self.token = now.node, now.keys, now.token


def enrol(
    settings: NodeSettings,
    coordinator_url: str,
    code: str,
    *,
    clock: Clock | None = None,
    http_transport: httpx.BaseTransport | None = None,
) -> NodeFile:
    """Enrol the agent of `settings.workdir` and keep what came back. Raises `CoordinatorError` for a wrong code or
    certificate, `PlainHttpError` for an address that must not be used.

    A site that was enrolled before keeps its keys, and with them its folder on the hub and everything it has signed.
    """
    http_transport = http_transport or way_out(settings, coordinator_url)
    private_folder(settings.workdir)
    keys = ensure_keys(settings.keys_folder)
    clock = clock or SystemClock()
    journal = Journal(settings.journal_path, clock)
    client = CoordinatorClient(coordinator_url, EgressLedger(journal, clock), http_transport=http_transport)
    try:
        reply = client.enrol(
            EnrolRequest(
                code=code,
                ssh_public_key=keys.ssh_public_key,
                signing_public_key=keys.signing_public_key,
                agent_version=AGENT_VERSION,
            )
        )
        if client.mark is not None:
            LedgerMemory(journal, clock).join(client.mark)
    finally:
        client.close()
        journal.close()
    return _remember(settings.workdir, coordinator_url, reply)


def _remember(workdir: Path, coordinator_url: str, reply: EnrolReply) -> NodeFile:
    node = NodeFile(node_id=reply.node_id, alliance=reply.alliance, coordinator_url=coordinator_url, hub=reply.hub)
    write_private(workdir / TOKEN, reply.token.encode())
    write_node_file(workdir, node)  # last: with it the enrolment is complete
    return node


def write_node_file(workdir: Path, node: NodeFile) -> None:
    write_private(workdir / "node.json", canonical_json(node))


def load_identity(settings: NodeSettings) -> Identity:
    try:
        node = NodeFile.model_validate_json((settings.workdir / "node.json").read_bytes())
        token = (settings.workdir / TOKEN).read_text().strip()
        keys = load_keys(settings.keys_folder)
    except (FileNotFoundError, ValidationError) as error:
        raise NotEnrolledError(workdir=settings.workdir) from error
    return Identity(node, token, keys)
