"""A node's new keys: what its old and its new signing key say of each other, and the way from one key to the next.

    old key ──signs──> KeyRotation(node, old, new, digest of the new access) <──signs── new key

The old key vouches for the new one, so peers may believe it at once. The new one owns up to the old, so nobody can
hang an invented past on it. Without both signatures a changed key is a stranger's until a person decides.
"""

import hashlib
from collections.abc import Iterable
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from hsl_model.protocol import PROTOCOL_VERSION
from hsl_model.protocol.config import Message, NodeId, Sha256
from hsl_model.protocol.manifest import is_signed, public_key_text, signature_of

MAX_ROTATIONS = 8  # that are kept and told: a site that was away for more of them asks its admin
PublicKey = Annotated[str, Field(min_length=40, max_length=64, description="base64 of 32 raw Ed25519 bytes")]
Signature = Annotated[str, Field(max_length=100, description="base64 of Ed25519 over canonical_json(rotation)")]


class KeyRotation(Message):
    """`old` equals `new` where only the way to the hub changes. Peers are told of it; what `access` is the digest of,
    only the coordinator."""

    protocol_version: int = PROTOCOL_VERSION
    node_id: NodeId
    old: PublicKey
    new: PublicKey
    access_sha256: Sha256


class SignedRotation(Message):
    rotation: KeyRotation
    by_old: Signature
    by_new: Signature


def access_digest(ssh_public_key: str, token_sha256: str) -> str:
    return hashlib.sha256(f"{ssh_public_key}\n{token_sha256}".encode()).hexdigest()


def sign_rotation(rotation: KeyRotation, old: Ed25519PrivateKey, new: Ed25519PrivateKey) -> SignedRotation:
    if (public_key_text(old), public_key_text(new)) != (rotation.old, rotation.new):
        raise ValueError("these are not the keys of the rotation")
    return SignedRotation(rotation=rotation, by_old=signature_of(rotation, old), by_new=signature_of(rotation, new))


def is_sound(signed: SignedRotation, node_id: str) -> bool:
    """Of this node, and signed by both of its keys."""
    said = signed.rotation
    both = is_signed(said, signed.by_old, said.old) and is_signed(said, signed.by_new, said.new)
    return said.node_id == node_id and both


def ancestry(node_id: str, newest: str, rotations: Iterable[SignedRotation]) -> tuple[str, ...]:
    """`newest` and the keys that lead to it by sound rotations, newest first."""
    before = {one.rotation.new: one.rotation.old for one in rotations if is_sound(one, node_id)}
    found = [newest]
    while (old := before.get(found[-1])) is not None and old not in found:
        found.append(old)
    return tuple(found)
