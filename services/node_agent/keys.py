"""The two key pairs of a node, made on site: one for the hub (SSH), one that signs its manifests. Both Ed25519."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from hsl_model.protocol.manifest import public_key_text
from node_agent.private_files import write_private

SSH_KEY = "ssh_ed25519"
SSH_KEY_BEFORE = "ssh_ed25519.before"  # a rotation's old key, until the hub has let the new one in
SIGNING_KEY = "signing_ed25519.pem"


@dataclass(frozen=True)
class NodeKeys:
    ssh_key: Path  # OpenSSH format: what Paramiko and ssh(1) read
    ssh_public_key: str  # one line, `ssh-ed25519 AAAA…`
    signing: Ed25519PrivateKey
    ssh_key_before: Path | None = None

    @property
    def signing_public_key(self) -> str:
        return public_key_text(self.signing)

    @property
    def hub_key(self) -> Path:
        """With which to log in now: the old one for as long as the hub may not know the new one."""
        return self.ssh_key_before or self.ssh_key


def ensure_keys(folder: Path) -> NodeKeys:
    """The keys in `folder`, made now if missing. A crash between the two files leaves the first, which is kept."""
    if not (folder / SSH_KEY).exists():
        make_ssh_key(folder / SSH_KEY)
    if not (folder / SIGNING_KEY).exists():
        make_signing_key(folder / SIGNING_KEY)
    return load_keys(folder)


def make_ssh_key(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_private(path.with_suffix(".pub"), ssh_line(key).encode() + b"\n")


def make_signing_key(path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_keys(folder: Path) -> NodeKeys:
    ssh_path, before = folder / SSH_KEY, folder / SSH_KEY_BEFORE
    ssh, signing = load_ssh_key(ssh_path), load_signing_key(folder / SIGNING_KEY)
    return NodeKeys(ssh_path, ssh_line(ssh), signing, before if before.exists() else None)


def load_ssh_key(path: Path) -> Ed25519PrivateKey:
    return _ed25519(load_ssh_private_key(path.read_bytes(), password=None), path)


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    return _ed25519(load_pem_private_key(path.read_bytes(), password=None), path)


def _ed25519(key: object, path: Path) -> Ed25519PrivateKey:
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{path} holds a key that is not Ed25519")
    return key


def ssh_line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
