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
SIGNING_KEY = "signing_ed25519.pem"


@dataclass(frozen=True)
class NodeKeys:
    ssh_key: Path  # OpenSSH format: what Paramiko and ssh(1) read
    ssh_public_key: str  # one line, `ssh-ed25519 AAAA…`
    signing: Ed25519PrivateKey

    @property
    def signing_public_key(self) -> str:
        return public_key_text(self.signing)


def ensure_keys(folder: Path) -> NodeKeys:
    """The keys in `folder`, made now if missing. A crash between the two files leaves the first, which is kept."""
    ssh_path, signing_path = folder / SSH_KEY, folder / SIGNING_KEY
    if not ssh_path.exists():
        key = Ed25519PrivateKey.generate()
        write_private(ssh_path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        write_private(ssh_path.with_suffix(".pub"), _ssh_line(key).encode() + b"\n")
    if not signing_path.exists():
        key = Ed25519PrivateKey.generate()
        write_private(signing_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return load_keys(folder)


def load_keys(folder: Path) -> NodeKeys:
    ssh_path = folder / SSH_KEY
    ssh = load_ssh_private_key(ssh_path.read_bytes(), password=None)
    signing = load_pem_private_key((folder / SIGNING_KEY).read_bytes(), password=None)
    if not isinstance(ssh, Ed25519PrivateKey) or not isinstance(signing, Ed25519PrivateKey):
        raise TypeError(f"{folder} holds keys that are not Ed25519")
    return NodeKeys(ssh_path, _ssh_line(ssh), signing)


def _ssh_line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
