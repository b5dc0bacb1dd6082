"""Public keys as a site sends them: checked, and in one spelling (no comment, no spaces)."""

import base64

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from coordinator.nodes.errors import PublicKeyError


def ssh_key(text: str) -> str:
    refusal = PublicKeyError(field="ssh_public_key", expected="one line of OpenSSH: ssh-ed25519 AAAA...")
    try:
        key = load_ssh_public_key(text.strip().encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refusal from error
    if not isinstance(key, Ed25519PublicKey) or "\n" in text.strip():
        raise refusal
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def signing_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
        return base64.b64encode(Ed25519PublicKey.from_public_bytes(raw).public_bytes_raw()).decode()
    except ValueError as error:
        raise PublicKeyError(field="signing_public_key", expected="base64 of 32 bytes") from error
