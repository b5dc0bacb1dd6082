"""Speaking to a coordinator under test as its admin and as nodes."""

from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import BaseModel

from coordinator.kernel import Kernel
from coordinator.schedule import Beat
from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.manifest import canonical_json, public_key_text
from hsl_model.protocol.messages import EnrolReply, EnrolRequest
from hsl_model.protocol.transport import API, BOOT_ID_HEADER, BOOT_NUMBER_HEADER, ENROL
from tests.coordinator.fakes import MemoryHub

ADMIN_TOKEN = "gUa7xPq2-test-admin-Wn5kLr8z"
HUB_TOKEN = "b3Fh9sVd-test-hub-Jc6yTm4q"
PROTOCOL = {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}


class Speaker:
    """Somebody with fixed headers. Bodies are messages or plain dictionaries; answers are checked for their status."""

    def __init__(self, http: httpx.Client, headers: dict[str, str]) -> None:
        self.http = http
        self.headers = headers

    def post(self, path: str, body: BaseModel | dict[str, Any] | None = None, **headers: str) -> httpx.Response:
        content = canonical_json(body) if isinstance(body, BaseModel) else None
        json = body if isinstance(body, dict) else None
        sent = {**self.headers, **headers, **({"Content-Type": "application/json"} if content else {})}
        return self.http.post(path, content=content, json=json, headers=sent)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(path, params=query, headers=self.headers)


@dataclass
class NodeSpeaker(Speaker):
    """An enrolled node: its token, its keys, and the boot it speaks as."""

    http: httpx.Client
    node_id: str
    token: str
    signing_key: Ed25519PrivateKey
    boot_number: int = 1
    boot_id: str = "boot-1"

    @property
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        return {
            **PROTOCOL,
            "Authorization": f"Bearer {self.token}",
            BOOT_NUMBER_HEADER: str(self.boot_number),
            BOOT_ID_HEADER: self.boot_id,
        }

    def restart(self) -> None:
        self.boot_number += 1
        self.boot_id = f"boot-{self.boot_number}"


@dataclass
class Keys:
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    ssh: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def request(self, code: str) -> EnrolRequest:
        ssh = self.ssh.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        return EnrolRequest(
            code=code, ssh_public_key=ssh, signing_public_key=public_key_text(self.signing), agent_version="test"
        )


@dataclass
class Alliance:
    """One coordinator under test with everything around it."""

    http: httpx.Client
    kernel: Kernel
    clock: ManualClock
    hub: MemoryHub

    def __post_init__(self) -> None:
        self.admin = Speaker(self.http, {"Authorization": f"Bearer {ADMIN_TOKEN}"})
        self.stranger = Speaker(self.http, dict(PROTOCOL))
        self._beat = Beat(self.kernel)

    def beat(self, seconds: float = 0.0) -> None:
        """Let time pass, then do what the schedule does."""
        self.clock.advance(seconds)
        self._beat()

    def add(self, node_id: str) -> str:
        """A created node's enrolment code."""
        reply = self.admin.post(f"{API}/nodes", {"node_id": node_id})
        assert reply.status_code == 201, reply.text
        return str(reply.json()["code"])

    def enrol(self, node_id: str, *, keys: Keys | None = None) -> NodeSpeaker:
        keys = keys or Keys()
        reply = self.stranger.post(ENROL, keys.request(self.add(node_id)))
        assert reply.status_code == 200, reply.text
        return NodeSpeaker(self.http, node_id, EnrolReply.model_validate_json(reply.content).token, keys.signing)

    def event_kinds(self, **query: Any) -> list[str]:
        reply = self.admin.get(f"{API}/events", limit=500, **query)
        return [event["kind"] for event in reply.json()["items"]]
