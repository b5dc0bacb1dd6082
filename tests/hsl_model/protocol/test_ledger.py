"""The ledger's mark on the wire, and what a record must be signed by."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.ledger import Mark, RoundRecord, SignedRecord, parse_mark, sign_record, verify_record
from hsl_model.protocol.manifest import public_key_text
from hsl_model.protocol.messages import FusionPlan, FusionReport, PlanEntry

SHA = "a" * 64


def record(**changes: object) -> RoundRecord:
    entry = PlanEntry(
        node_id="node-a", update_sha256=SHA, update_bytes=1, manifest_sha256=SHA, weight=1 / 3, num_cases=5
    )
    given: dict[str, object] = {
        "run_id": "run-1",
        "round_number": 3,
        "node_id": "node-a",
        "plan": FusionPlan(run_id="run-1", round_number=3, version=1, entries=(entry,)),
        "report": FusionReport(plan_version=1, fused_digest=SHA),
        "manifests": (),
    }
    return RoundRecord.model_validate({**given, **changes})


def test_a_mark_survives_the_header() -> None:
    mark = Mark("0123456789abcdef" * 2, 3, 4_000_000_000)
    assert parse_mark(mark.header()) == mark


@pytest.mark.parametrize("text", [None, "", "abc.1.2", f"{'a' * 32}.1", f"{'a' * 32}.1.2.3", f"{'a' * 32}.-1.2"])
def test_what_is_no_mark_is_none(text: str | None) -> None:
    assert parse_mark(text) is None


def test_a_record_is_its_signers_and_nobody_elses() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signed = sign_record(record(), key)
    over_the_wire = SignedRecord.model_validate_json(signed.model_dump_json())
    assert verify_record(over_the_wire, (public_key_text(key),)) == record()
    changed = SignedRecord(record=record(round_number=3, node_id="node-b"), signature=signed.signature)
    for one, text in ((signed, public_key_text(other)), (changed, public_key_text(key)), (signed, "")):
        with pytest.raises(ManifestError):
            verify_record(one, (text,))


def test_a_record_with_the_plan_of_another_round_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    with pytest.raises(ManifestError, match="another round"):
        verify_record(sign_record(record(round_number=4), key), (public_key_text(key),))
