import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_model.protocol import manifest as m
from hsl_model.protocol.errors import ManifestError

KEY = Ed25519PrivateKey.generate()
METRICS = m.UpdateMetrics(validation_auc=0.75, validation_loss=0.1, shared_epoch=4, num_steps=20)


def example(**changes: object) -> m.UpdateManifest:
    facts: dict[str, object] = {
        "run_id": "run-1",
        "round_number": 7,
        "node_id": "north",
        "update_sha256": "a" * 64,
        "update_bytes": 10,
        "tensors": (m.TensorSpec(name="w", dtype="F32", shape=(2, 3)),),
        "start_digest": "b" * 64,
        "num_cases": 12,
        "metrics": METRICS,
    }
    return m.UpdateManifest.model_validate({**facts, **changes})


def test_a_signed_manifest_survives_its_bytes() -> None:
    signed = m.sign(example(), KEY)
    read = m.parse_signed(signed.to_bytes())
    assert read == signed
    assert read.sha256 == signed.sha256
    assert m.verify(read, m.public_key_text(KEY)) == example()


@pytest.mark.parametrize("change", [{"update_sha256": "c" * 64}, {"round_number": 8}, {"node_id": "south"}])
def test_any_changed_fact_breaks_the_signature(change: dict[str, object]) -> None:
    signed = m.sign(example(), KEY)
    forged = m.SignedManifest(manifest=example(**change), signature=signed.signature)
    with pytest.raises(ManifestError, match="signature"):
        m.verify(forged, m.public_key_text(KEY))


def test_another_key_and_a_broken_key_are_refused() -> None:
    signed = m.sign(example(), KEY)
    for public_key in (m.public_key_text(Ed25519PrivateKey.generate()), "not base64!", ""):
        with pytest.raises(ManifestError):
            m.verify(signed, public_key)


def test_only_canonical_bytes_are_read_so_that_a_digest_means_one_manifest() -> None:
    raw = m.sign(example(), KEY).to_bytes()
    with pytest.raises(ManifestError, match="canonical"):
        m.parse_signed(json.dumps(json.loads(raw), indent=1).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[1]",
        b"\x80\x04\x95",
        b'{"manifest":{},"signature":""}',
        b"x" * (m.MAX_MANIFEST_BYTES + 1),
    ],
)
def test_other_bytes_are_refused_with_a_reason(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        m.parse_signed(raw)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.5, -0.1])
def test_impossible_metrics_cannot_be_said(value: float) -> None:
    with pytest.raises(ValueError, match="validation_auc"):
        m.UpdateMetrics(validation_auc=value, shared_epoch=0, num_steps=0)


def test_nothing_beside_the_allowed_metrics_can_leave() -> None:
    with pytest.raises(ValueError, match="patient"):
        m.UpdateMetrics.model_validate({**METRICS.model_dump(), "patient": "x"})
