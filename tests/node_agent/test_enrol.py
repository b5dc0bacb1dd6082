import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paramiko import Ed25519Key

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.retry import FailureKind
from node_agent.coordinator_client import CoordinatorError
from node_agent.egress import verify
from node_agent.enrol import enrol, load_identity
from node_agent.errors import NotEnrolledError
from node_agent.journal import Journal
from node_agent.keys import ensure_keys
from node_agent.settings import NodeSettings
from tests.node_agent.alliance import Alliance, make_config


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(workdir=tmp_path / "a")


@pytest.fixture
def alliance(tmp_path: Path) -> Alliance:
    return Alliance(tmp_path, make_config())


def test_keys_are_made_once_and_only_the_owner_can_read_them(tmp_path: Path) -> None:
    made, again = ensure_keys(tmp_path / "keys"), ensure_keys(tmp_path / "keys")
    assert made.signing_public_key == again.signing_public_key
    assert made.ssh_public_key == again.ssh_public_key
    assert made.ssh_public_key.startswith("ssh-ed25519 ")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert isinstance(made.signing, Ed25519PrivateKey)


def test_the_ssh_key_is_in_the_form_that_paramiko_reads(tmp_path: Path) -> None:
    made = ensure_keys(tmp_path / "keys")
    key = Ed25519Key.from_private_key_file(str(made.ssh_key))
    assert f"{key.get_name()} {key.get_base64()}" == made.ssh_public_key


def test_enrolling_keeps_identity_and_token_for_the_owner_alone(settings: NodeSettings, alliance: Alliance) -> None:
    node = enrol(settings, "http://coordinator", "right-code", http_transport=alliance.transport())
    identity = load_identity(settings)
    assert (identity.node_id, identity.token, identity.node) == ("hospital-a", "hsln_a_secret", node)
    assert identity.keys.signing_public_key == alliance.agent_key
    for name in ("token", "node.json", "journal.sqlite"):
        assert (settings.workdir / name).stat().st_mode & 0o777 == 0o600
    assert "hsln_a_secret" not in (settings.workdir / "node.json").read_text()


def test_no_private_key_leaves_and_the_ledger_knows_what_did(settings: NodeSettings, alliance: Alliance) -> None:
    enrol(settings, "http://coordinator", "right-code", http_transport=alliance.transport())
    (sent,) = alliance.asked("/enrol")
    assert set(sent) == {"code", "ssh_public_key", "signing_public_key", "agent_version"}
    assert "PRIVATE" not in json.dumps(sent)
    journal = Journal(settings.journal_path, SystemClock())
    assert verify(journal).num_entries == 1
    journal.close()


def test_a_wrong_code_is_refused_and_leaves_no_half_enrolment(settings: NodeSettings, alliance: Alliance) -> None:
    with pytest.raises(CoordinatorError) as caught:
        enrol(settings, "http://coordinator", "wrong-code", http_transport=alliance.transport())
    assert (caught.value.problem_code, caught.value.kind) == ("enrolment_code_invalid", FailureKind.DENIED)
    with pytest.raises(NotEnrolledError):
        load_identity(settings)


def test_enrolling_again_after_a_lost_reply_uses_the_same_keys(settings: NodeSettings, alliance: Alliance) -> None:
    for _ in range(2):
        enrol(settings, "http://coordinator", "right-code", http_transport=alliance.transport())
    first, second = alliance.asked("/enrol")
    assert first == second
