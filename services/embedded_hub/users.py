"""Who may log in: node ids and their public keys, in one small file that is replaced as a whole at every change."""

from pathlib import Path

import asyncssh
from pydantic import Field, ValidationError

from embedded_hub.errors import KeyInvalidError, NoSuchNodeError, UsersFileError
from hsl_model.durable import write_private
from hsl_model.protocol.config import Message, NodeId

KEY_TYPE = "ssh-ed25519"


class _User(Message):
    ssh_public_key: str | None = None  # None: known, but nobody can log in


class _Users(Message):
    version: int = Field(default=1, le=1)
    nodes: dict[NodeId, _User] = Field(default_factory=dict)


class Users:
    """Every change is on the disk before the method returns. Used by the hub's one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._users = _Users.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            self._users = _Users()
        except ValidationError as error:
            first = error.errors()[0]
            raise UsersFileError(path=path, reason=first["msg"]) from error

    def ensure(self, node_id: str) -> None:
        if node_id not in self._users.nodes:
            self._replace(node_id, _User())

    def has(self, node_id: str) -> bool:
        return node_id in self._users.nodes

    def set_key(self, node_id: str, ssh_public_key: str) -> bool:
        """Let this key log in, and no other. True if that changed anything."""
        if not self.has(node_id):
            raise NoSuchNodeError(node_id=node_id)
        key = _canonical(node_id, ssh_public_key)
        if self._users.nodes[node_id].ssh_public_key == key:
            return False
        self._replace(node_id, _User(ssh_public_key=key))
        return True

    def remove_key(self, node_id: str) -> None:
        if self.has(node_id):
            self._replace(node_id, _User())

    def may_log_in(self, node_id: str, key: asyncssh.SSHKey) -> bool:
        user = self._users.nodes.get(node_id)
        return user is not None and user.ssh_public_key == _line(key)

    def _replace(self, node_id: str, user: _User) -> None:
        users = _Users(nodes={**self._users.nodes, node_id: user})
        write_private(self._path, users.model_dump_json(indent=2).encode() + b"\n")
        self._users = users


def _canonical(node_id: str, ssh_public_key: str) -> str:
    try:
        key = asyncssh.import_public_key(ssh_public_key)
    except (asyncssh.KeyImportError, ValueError) as error:
        raise KeyInvalidError(node_id=node_id) from error
    if key.get_algorithm() != KEY_TYPE:
        raise KeyInvalidError(node_id=node_id)
    return _line(key)


def _line(key: asyncssh.SSHKey) -> str:
    """`ssh-ed25519 AAAA…`, without the comment."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def ensure_host_key(path: Path) -> asyncssh.SSHKey:
    """The hub's identity: made once. Nodes pin it, so a hub that lost it is a stranger to all of them."""
    if not path.exists():
        write_private(path, asyncssh.generate_private_key(KEY_TYPE).export_private_key("openssh"))
    return asyncssh.read_private_key(str(path))


def host_key_line(key: asyncssh.SSHKey) -> str:
    return _line(key)
