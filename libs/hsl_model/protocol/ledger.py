"""What survives of the coordinator's ledger at the sites, should the ledger itself be restored from an old backup.

A ledger has an id (of one alliance's database, for ever), a generation (raised each time it was restored and
recovered) and events that are counted. Every reply to a node carries this mark in a header; nodes remember the highest.
Of every round that a node has adopted it keeps a record, signed, from which a recovered ledger is completed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from hsl_model.protocol.config import Message, NodeId
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.manifest import RunId, SignedManifest, is_signed, signature_of
from hsl_model.protocol.messages import FusionPlan, FusionReport

# With its manifests; one body of a request holds it. Together the sites hold every manifest many times over.
MAX_RECORD_BYTES = 1 << 20
_MARK = re.compile(r"^([0-9a-f]{32})\.([0-9]{1,9})\.([0-9]{1,18})$")


@dataclass(frozen=True)
class Mark:
    """Which ledger, which generation of it, and its newest event."""

    ledger_id: str
    generation: int
    event_id: int

    def header(self) -> str:
        return f"{self.ledger_id}.{self.generation}.{self.event_id}"


def parse_mark(text: str | None) -> Mark | None:
    found = _MARK.fullmatch(text or "")
    return Mark(found[1], int(found[2]), int(found[3])) if found else None


class RoundRecord(Message):
    """One node's word on a round that it has adopted: which plan it fused, from what, and what came out."""

    run_id: RunId
    round_number: int = Field(ge=0, le=999_999)
    node_id: NodeId
    plan: FusionPlan
    report: FusionReport
    manifests: tuple[SignedManifest, ...] = Field(description="of the plan: its own and those of peers it verified")


class SignedRecord(Message):
    record: RoundRecord
    signature: str = Field(description="base64 of Ed25519 over canonical_json(record)", max_length=100)


class RecordReport(Message):
    """One record that was asked for. The last one says so; a node that has none says only that."""

    signed: SignedRecord | None = None
    is_last: bool


def sign_record(record: RoundRecord, key: Ed25519PrivateKey) -> SignedRecord:
    return SignedRecord(record=record, signature=signature_of(record, key))


def verify_record(signed: SignedRecord, public_keys: Sequence[str]) -> RoundRecord:
    """The record, if one of these keys of its node signed it and it speaks of one round only; else `ManifestError`."""
    record = signed.record
    if not any(is_signed(record, signed.signature, key) for key in public_keys):
        raise ManifestError(reason=f"the signature of a record is not {record.node_id}'s")
    if (record.plan.run_id, record.plan.round_number) != (record.run_id, record.round_number):
        raise ManifestError(reason=f"the record of {record.node_id} names the plan of another round")
    return record
