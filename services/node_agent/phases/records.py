"""This node's signed word on every round it has adopted, should the coordinator's ledger be restored without it.

Written when a round is adopted, while its manifests are still here. Compressed: manifests of one round name the same
tensors. A record holds as many of the peers' manifests as a request may carry, beginning behind this node's own, so
that the sites together hold each of them many times.
"""

import hashlib
import zlib
from collections.abc import Iterator

from hsl_model.protocol.ledger import MAX_RECORD_BYTES, RoundRecord, SignedRecord, sign_record
from hsl_model.protocol.manifest import SignedManifest, canonical_json, parse_signed
from hsl_model.protocol.messages import FusionReport
from node_agent.context import Context
from node_agent.facts import RoundFacts
from node_agent.journal import Journal
from node_agent.phases.collecting import local_manifest, own_first

KEPT = 1000  # rounds; some 10 MB. A backup that is older than this many rounds is replayed no further
_OTHERS_BYTES = 100_000  # of plan, report and signature


def keep_record(context: Context, facts: RoundFacts, report: FusionReport) -> None:
    """Done twice is done once: the manifests may be gone already when an adoption is repeated."""
    plan_key = hashlib.sha256(canonical_json(facts.plan)).hexdigest() + f".{report.attempt}.{facts.generation}"
    with context.journal.transaction() as connection:
        found = connection.execute(
            "SELECT plan_key FROM round_records WHERE run_id = ? AND round_number = ?", facts.key
        ).fetchone()
        if found is not None and found["plan_key"] == plan_key:
            return
        record = RoundRecord(
            run_id=facts.run_id,
            round_number=facts.round_number,
            node_id=context.node_id,
            plan=facts.plan,
            report=report,
            manifests=_manifests(context, facts),
        )
        raw = zlib.compress(canonical_json(sign_record(record, context.identity.keys.signing)))
        connection.execute(
            "INSERT OR REPLACE INTO round_records (run_id, round_number, plan_key, record) VALUES (?, ?, ?, ?)",
            (*facts.key, plan_key, raw),
        )
        connection.execute(
            "DELETE FROM round_records WHERE rowid <= (SELECT max(rowid) FROM round_records) - ?", (KEPT,)
        )


def records_from(journal: Journal, run_id: str, round_number: int) -> Iterator[SignedRecord]:
    """Oldest first."""
    with journal.transaction() as connection:
        rows = connection.execute(
            "SELECT round_number FROM round_records WHERE run_id = ? AND round_number >= ? ORDER BY round_number",
            (run_id, round_number),
        ).fetchall()
    for row in rows:
        with journal.transaction() as connection:
            found = connection.execute(
                "SELECT record FROM round_records WHERE run_id = ? AND round_number = ?", (run_id, row["round_number"])
            ).fetchone()
        if found is not None:
            yield SignedRecord.model_validate_json(zlib.decompress(found["record"]))


def _manifests(context: Context, facts: RoundFacts) -> tuple[SignedManifest, ...]:
    kept: list[SignedManifest] = []
    room = MAX_RECORD_BYTES - _OTHERS_BYTES
    for entry in own_first(context, facts):
        signed = _own(facts, entry.manifest_sha256)
        if signed is None:
            path = local_manifest(context, facts, entry)
            if not path.exists():  # nothing was exchanged, or the round's fusers have fetched it for all
                continue
            signed = parse_signed(path.read_bytes())
        room -= len(signed.to_bytes()) + 1
        if room < 0:
            break
        kept.append(signed)
    return tuple(kept)


def _own(facts: RoundFacts, manifest_sha256: str) -> SignedManifest | None:
    signed = facts.signed
    return signed if signed is not None and signed.sha256 == manifest_sha256 else None
