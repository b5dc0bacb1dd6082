"""Agents and `hsl` against a coordinator behind real TLS, with authorities made for the moment."""

from pathlib import Path
from typing import Any

import pytest

from hsl_cli.errors import UnreachableError
from hsl_cli.service import Service
from hsl_model.protocol.messages import EnrolReply, HubAddress
from hsl_model.protocol.retry import TRANSIENT
from node_agent.coordinator_client import CoordinatorError
from node_agent.enrol import enrol
from node_agent.settings import NodeSettings
from node_agent.tls import CaFileError, PlainHttpError
from tests.node_agent.tls import DAY, Authority, TlsService

CODE = "hslc_" + "a1b2c3d4" * 4
HUB = HubAddress(host="127.0.0.1", port=2022, username="a", host_key="ssh-ed25519 AAAA")


class Coordinator(TlsService):
    def answer(self, method: str, path: str) -> Any:
        return EnrolReply(node_id="a", token="hsln_a_secret", alliance="x", hub=HUB)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(folder: Path, trusted: Path | None) -> NodeSettings:
    return NodeSettings(workdir=folder / "node", coordinator_ca_file=trusted)


def refused(folder: Path, coordinator: Coordinator, trusted: Path | None) -> str:
    with pytest.raises(CoordinatorError) as caught:
        enrol(settings(folder, trusted), coordinator.url, CODE)
    assert caught.value.problem_code == "coordinator_certificate"
    assert TRANSIENT[caught.value.kind]
    assert not (folder / "node" / "token").exists()
    return caught.value.sentence()


def test_the_alliances_authority_is_believed_and_no_other(tmp_path: Path, authority: Authority) -> None:
    other = Authority(tmp_path, "another CA")
    with Coordinator(authority, "localhost") as coordinator:
        assert "HSL_NODE_COORDINATOR_CA_FILE" in refused(tmp_path, coordinator, other.file)
        assert "nobody trusted here has signed it" in refused(tmp_path, coordinator, None)  # it is no public one
        assert enrol(settings(tmp_path, authority.file), coordinator.url, CODE).node_id == "a"


def test_the_very_certificate_may_be_pinned(tmp_path: Path, authority: Authority) -> None:
    with Coordinator(authority, "localhost") as coordinator:
        (pinned,) = tmp_path.glob("localhost-*.pem")
        with Coordinator(authority, "localhost") as sibling:
            assert "nobody trusted here has signed it" in refused(tmp_path, sibling, pinned)
        assert enrol(settings(tmp_path, pinned), coordinator.url, CODE).node_id == "a"


def test_an_expired_certificate_and_one_of_another_name_say_so(tmp_path: Path, authority: Authority) -> None:
    with Coordinator(authority, "localhost", valid=(-2 * DAY, -DAY)) as coordinator:
        assert "it has expired" in refused(tmp_path, coordinator, authority.file)
    with Coordinator(authority, "elsewhere.example") as coordinator:
        assert "it was issued for another name" in refused(tmp_path, coordinator, authority.file)


def test_plain_http_leaves_this_machine_for_nobody(tmp_path: Path) -> None:
    with pytest.raises(PlainHttpError, match="https://"):
        enrol(settings(tmp_path, None), "http://192.0.2.1:8070", CODE)
    assert not (tmp_path / "node").exists()
    with pytest.raises(PlainHttpError):
        Service("http://coordinator.example", "t", name="the coordinator")
    with pytest.raises(CoordinatorError) as caught:  # nobody listens there, but it was asked
        enrol(settings(tmp_path, None), "http://127.0.0.1:9", CODE)
    assert caught.value.problem_code == "coordinator_connection"


@pytest.mark.parametrize("content", [None, b"", b"not a certificate", b"\xff"])
def test_a_file_without_a_certificate_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaFileError, match=r"ca\.pem"):
        enrol(settings(tmp_path, path), "https://127.0.0.1:9", CODE)


def test_an_admins_command_trusts_by_the_same_rule(tmp_path: Path, authority: Authority) -> None:
    with Coordinator(authority, "localhost") as coordinator:
        with Service(coordinator.url, "t", name="the coordinator", ca_file=authority.file) as service:
            assert service.call("POST", "/", body={}).status_code == 200
        with (
            Service(coordinator.url, "t", name="the coordinator") as service,
            pytest.raises(UnreachableError, match="HSL_CA_FILE"),
        ):
            service.call("POST", "/", body={})
