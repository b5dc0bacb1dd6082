"""A hub that obeys `HubAdmin` in memory, for tests that are not about the hub."""

from dataclasses import dataclass, field

from coordinator.hub.admin import HubDownError, HubFile
from hsl_model.protocol.messages import HubAddress


@dataclass
class MemoryHub:
    """Folders and keys by node; `is_down` makes every call fail as a hub that nobody answers at."""

    is_down: bool = False
    folders: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def ensure_node(self, node_id: str) -> None:
        self._answer("ensure_node", node_id)
        self.folders.add(node_id)

    def set_key(self, node_id: str, ssh_public_key: str) -> None:
        self._answer("set_key", node_id)
        self.keys[node_id] = ssh_public_key

    def cut(self, node_id: str) -> None:
        self._answer("cut", node_id)
        self.keys.pop(node_id, None)

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        self._answer("list", node_id)
        return ()

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        self._answer("release", node_id, *names)

    def address(self, node_id: str) -> HubAddress:
        if self.is_down:
            raise HubDownError(url="http://hub.test", reason="ConnectError")
        return HubAddress(host="127.0.0.1", port=2022, username=node_id, host_key="ssh-ed25519 AAAA")

    def healthy(self) -> bool:
        return not self.is_down

    def _answer(self, *call: str) -> None:
        if self.is_down:
            raise HubDownError(url="http://hub.test", reason="ConnectError")
        self.calls.append(call)
