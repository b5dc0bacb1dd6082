"""The manifest: what a node says of an update, signed by the node. Readers trust only a manifest the plan names.

A manifest's bytes are canonical JSON (sorted keys, no spaces, ASCII); its digest is the SHA-256 of those bytes,
signature included. The Ed25519 signature covers the canonical JSON of everything but the signature.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError, field_validator

from hsl_model.protocol import PROTOCOL_VERSION
from hsl_model.protocol.config import Message, NodeId, Sha256
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.paths import RUN_ID_PATTERN

MAX_MANIFEST_BYTES = 1 << 20  # a peer cannot make us parse more than a megabyte of JSON
RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TensorSpec(Message):
    name: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_.]+$")
    dtype: str = Field(pattern=r"^(F16|F32|F64|BF16|I32|I64|U8)$", description="safetensors' word")
    shape: tuple[Annotated[int, Field(ge=0)], ...] = Field(max_length=8)


class SiteStyle(Message):
    """What a site tells of its acquisition: 35 numbers over its training images, rounded to 1/10000 (style.py)."""

    quantiles: tuple[Fraction, ...] = Field(
        min_length=33,
        max_length=33,
        description="of an image's pixels at 0, 1/32, ..., 1, stored range 0 to 1; the mean over the images",
    )
    noise: Fraction = Field(description="sd of white noise that would leave as much residual, stored range 0 to 1")
    sharpness: Fraction = Field(
        description="steps between next pixels over steps between every second, without the noise's part"
    )

    @field_validator("quantiles")
    @classmethod
    def _rise(cls, quantiles: tuple[float, ...]) -> tuple[float, ...]:
        if any(one > other for one, other in pairwise(quantiles)):
            raise ValueError("quantiles never fall")
        return quantiles


class UpdateMetrics(Message):
    """The only numbers about a site's data that leave with an update: the egress allow-list."""

    validation_auc: Fraction | None = Field(description="of the shared epoch; None where one class is missing")
    validation_loss: float | None = None
    training_loss: float | None = None
    mixture_ratio: float | None = Field(default=None, description="sd(mixture) / sd(skip), methods.md H9")
    shared_epoch: int = Field(ge=0, description="which local epoch of the round was shared")
    num_steps: int = Field(ge=0, description="optimiser steps of this round")
    micro_batch_size: int | None = Field(default=None, description="set where a site split its batches")
    restarted: bool = Field(default=False, description="a resume could not be exact, so the round began anew")
    style: SiteStyle | None = Field(
        default=None,
        exclude_if=lambda style: style is None,  # manifests of other methods keep their bytes
        description="of methods whose members show images in each other's styles; no other method tells it",
    )


class UpdateManifest(Message):
    protocol_version: int = PROTOCOL_VERSION
    run_id: RunId
    round_number: int = Field(ge=0)
    node_id: NodeId
    update_sha256: Sha256
    update_bytes: int = Field(ge=0)
    tensors: tuple[TensorSpec, ...] = Field(max_length=5000)
    start_digest: Sha256 | None = Field(description="fused digest this round began with; None in round 0")
    num_cases: int = Field(ge=0, description="training cases")
    metrics: UpdateMetrics
    egress_head: Sha256 | None = Field(default=None, description="head of the node's egress ledger")


class SignedManifest(Message):
    manifest: UpdateManifest
    signature: str = Field(description="base64 of Ed25519 over canonical_json(manifest)", max_length=100)

    def to_bytes(self) -> bytes:
        return canonical_json(self)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def canonical_json(message: Message) -> bytes:
    """The one byte string that stands for a message: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(
        message.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def sign(manifest: UpdateManifest, key: Ed25519PrivateKey) -> SignedManifest:
    return SignedManifest(manifest=manifest, signature=signature_of(manifest, key))


def verify(signed: SignedManifest, public_key: str) -> UpdateManifest:
    """The manifest, if `public_key` (base64 of 32 raw bytes) signed it; else `ManifestError`."""
    if not is_signed(signed.manifest, signed.signature, public_key):
        raise ManifestError(
            reason=f"its signature is not {signed.manifest.node_id}'s; ask that site whether its keys changed"
        )
    return signed.manifest


def signature_of(message: Message, key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.sign(canonical_json(message))).decode()


def is_signed(message: Message, signature: str, public_key: str) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(signature, validate=True), canonical_json(message))
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_by_any(signed: SignedManifest, public_keys: Sequence[str]) -> UpdateManifest:
    """The manifest, if one of these keys of its node signed it; a key that was rotated meanwhile is one of several."""
    fits = (key for key in public_keys if is_signed(signed.manifest, signed.signature, key))
    return verify(signed, next(fits, ""))


def parse_signed(raw: bytes) -> SignedManifest:
    """Read a manifest file. Bounded before parsing; must be canonical, so that its digest is unambiguous."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise ManifestError(reason=f"{len(raw)} bytes; at most {MAX_MANIFEST_BYTES} are read")
    try:
        signed = SignedManifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise ManifestError(reason=f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if signed.to_bytes() != raw:
        raise ManifestError(reason="its bytes are not canonical JSON")
    return signed


def public_key_text(key: Ed25519PrivateKey) -> str:
    """base64 of the 32 raw bytes of the public key, as the roster carries it."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()
