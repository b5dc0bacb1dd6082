from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hsl_model.checkpoint import TensorFile, write_tensors
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.errors import ManifestError
from hsl_model.protocol.messages import FusionReport, Heartbeat, ValidationMetrics
from hsl_model.protocol.states import NodePhase
from node_agent.coordinator_client import CoordinatorClient, CoordinatorError
from node_agent.egress import (
    CONTROL_MESSAGES_PER_ROW,
    GENESIS,
    EgressLedger,
    GuardedExchange,
    check_declared,
    field_names,
    verify,
)
from node_agent.errors import EgressBrokenError, EgressRefusedError
from node_agent.exchange.directory import DirectoryExchange
from node_agent.journal import Journal

REPORT = FusionReport(
    plan_version=1, fused_digest="a" * 64, validation=ValidationMetrics(auc=0.5, loss=None, num_cases=3)
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal.sqlite", ManualClock())
    yield opened
    opened.close()


@pytest.fixture
def ledger(journal: Journal) -> EgressLedger:
    return EgressLedger(journal, ManualClock())


class Still:
    def moved(self, done: int, total: int) -> None:
        pass

    def cancelled(self) -> bool:
        return False


def rows(journal: Journal) -> list[tuple[str, str, int]]:
    with journal.transaction() as connection:
        return [
            tuple(row) for row in connection.execute("SELECT kind, destination, num_bytes FROM egress ORDER BY seq")
        ]


def test_the_head_follows_from_everything_before_it(ledger: EgressLedger, journal: Journal) -> None:
    assert ledger.head() == GENESIS
    heads = set()
    for number in range(3):
        ledger.append("message", "/a", b"x" * number, ("field",))
        heads.add(ledger.head())
    assert len(heads) == 3
    found = verify(journal)
    assert (found.num_entries, found.num_bytes, found.head) == (3, 3, ledger.head())


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE egress SET num_bytes = 0 WHERE seq = 2",
        "UPDATE egress SET names = '[]' WHERE seq = 2",
        "UPDATE egress SET destination = '/elsewhere' WHERE seq = 2",
        "DELETE FROM egress WHERE seq = 2",
        "UPDATE egress SET previous = head WHERE seq = 2",
    ],
)
def test_a_ledger_changed_afterwards_is_found_out(ledger: EgressLedger, journal: Journal, damage: str) -> None:
    for number in range(3):
        ledger.append("message", "/a", b"x" * number, ("field",))
    with journal.transaction() as connection:
        connection.execute(damage)
    with pytest.raises(EgressBrokenError) as caught:
        verify(journal)
    assert caught.value.data["seq"] == 2


def test_names_say_which_fields_left_and_never_a_value() -> None:
    names = field_names(REPORT.model_dump(mode="json"))
    assert "validation.auc" in names
    assert "validation.loss" not in names  # None: nothing left
    assert not any("0.5" in name for name in names)


def test_a_message_is_in_the_ledger_even_if_the_line_breaks(ledger: EgressLedger, journal: Journal) -> None:
    client = CoordinatorClient("http://127.0.0.1:9", ledger)
    with pytest.raises(CoordinatorError):
        client.report_fusion("run-1", 3, REPORT)
    client.close()
    ((kind, destination, num_bytes),) = rows(journal)
    assert (kind, destination) == ("message", "/api/v1/node/runs/run-1/rounds/3/fusion")
    assert num_bytes > 100


def test_heartbeats_are_summed_up(ledger: EgressLedger, journal: Journal) -> None:
    body = Heartbeat(phase=NodePhase.IDLE).model_dump_json().encode()
    for _ in range(CONTROL_MESSAGES_PER_ROW + 1):
        ledger.control("/api/v1/node/heartbeat", body)
    assert rows(journal) == [("control", "coordinator", CONTROL_MESSAGES_PER_ROW * len(body))]
    ledger.flush()
    ledger.flush()
    assert rows(journal)[1:] == [("control", "coordinator", len(body))]
    assert verify(journal).num_entries == 2


def test_an_upload_is_recorded_with_its_tensors(ledger: EgressLedger, journal: Journal, tmp_path: Path) -> None:
    made = write_tensors(tmp_path / "a.safetensors", {"weight": np.zeros(4, np.float32)})
    (tmp_path / "hub/nodes/hospital-a").mkdir(parents=True)
    hub = GuardedExchange(DirectoryExchange(tmp_path / "hub", "hospital-a"), ledger)
    hub.put_tensors(made.path, "hospital-a", made.sha256, Still())
    assert rows(journal) == [("tensors", f"/nodes/hospital-a/{made.sha256}.safetensors", made.num_bytes)]
    with journal.transaction() as connection:
        assert "weight F32 [4]" in connection.execute("SELECT names FROM egress").fetchone()[0]


def test_nothing_but_a_manifest_passes_as_a_manifest(ledger: EgressLedger, journal: Journal, tmp_path: Path) -> None:
    hub = GuardedExchange(DirectoryExchange(tmp_path, "hospital-a"), ledger)
    with pytest.raises(ManifestError):
        hub.put_manifest(b'{"patient": "Doe"}', f"/nodes/hospital-a/run-1.round-0001.{'a' * 64}.json")
    assert rows(journal) == []


def test_a_tensor_the_round_does_not_declare_never_leaves(tmp_path: Path) -> None:
    made = write_tensors(tmp_path / "a.safetensors", {"weight": np.zeros(4, np.float32), "images": np.zeros(4)})
    declared = write_tensors(tmp_path / "b.safetensors", {"weight": np.zeros(4, np.float32)})
    with TensorFile(declared.path) as file:
        with pytest.raises(EgressRefusedError) as caught:
            check_declared(made.path, file.specs)
        check_declared(declared.path, file.specs)
    assert "images" in caught.value.sentence()
