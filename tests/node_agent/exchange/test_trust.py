"""Who the hub is, who the node is, and what a hub that offers less, or refuses at times, does to a transfer."""

import threading
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

import embedded_hub.server
from hsl_model.protocol.paths import tensor_path
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.link import CIPHERS
from node_agent.exchange.sftp import SftpExchange
from tests.embedded_hub.helpers import HubProcess, HubThread, Login, make_login
from tests.node_agent.exchange.helpers import MIB, Watch, make_content

NewLogin = Callable[[], Login]


def kind_of_first_use(exchange: SftpExchange) -> FailureKind:
    with pytest.raises(ExchangeError) as caught:
        exchange.list_own()
    exchange.close()
    return caught.value.kind


def test_another_host_key_is_refused_before_anything_is_said(hub: HubProcess, tmp_path: Path) -> None:
    login, stranger = hub.add("site-pinned"), make_login("stranger", tmp_path)
    before = hub.log().count("site-pinned")
    exchange = SftpExchange(hub.address(login, host_key=stranger.public_key), login.key, login.node_id)
    assert kind_of_first_use(exchange) is FailureKind.HOST_KEY
    assert hub.log().count("site-pinned") == before  # not even the name was told


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAA", "nonsense nonsense"])
def test_a_host_key_that_is_none_is_refused_at_once(hub: HubProcess, new_login: NewLogin, line: str) -> None:
    login = new_login()
    with pytest.raises(ExchangeError) as caught:
        SftpExchange(hub.address(login, host_key=line), login.key, login.node_id)
    assert caught.value.kind is FailureKind.HOST_KEY


def test_a_broken_private_key_is_said_so(hub: HubProcess, new_login: NewLogin) -> None:
    login = new_login()
    login.key.write_text("not a key")
    with pytest.raises(ExchangeError) as caught:
        SftpExchange(hub.address(login), login.key, login.node_id)
    assert caught.value.kind is FailureKind.DENIED


def test_a_wrong_key_and_an_unknown_node_are_not_let_in(hub: HubProcess, new_login: NewLogin, tmp_path: Path) -> None:
    """Neither is final: the coordinator may not have told the hub of the node yet."""
    login, stranger = new_login(), make_login("stranger", tmp_path)
    wrong_key = SftpExchange(hub.address(login), stranger.key, login.node_id)
    unknown = SftpExchange(hub.address(stranger), stranger.key, "stranger")
    assert kind_of_first_use(wrong_key) is FailureKind.LIMIT
    assert kind_of_first_use(unknown) is FailureKind.LIMIT


def test_nobody_listens(hub: HubProcess, new_login: NewLogin) -> None:
    login = new_login()
    assert kind_of_first_use(SftpExchange(hub.address(login, port=1), login.key, "x")) is FailureKind.CONNECTION


def test_a_node_that_is_cut_can_neither_go_on_nor_come_back(
    hub: HubProcess, new_login: NewLogin, tmp_path: Path
) -> None:
    login, content = new_login(), make_content(tmp_path, 3 * MIB)
    exchange = SftpExchange(hub.address(login), login.key, login.node_id)
    exchange.list_own()
    sizes: list[int] = []

    class Cutting(Watch):
        def moved(self, done: int, total: int) -> None:
            super().moved(done, total)
            if done and not sizes:
                assert hub.admin("POST", f"/nodes/{login.node_id}/cut").json()["num_connections"] == 1
                sizes.append(part.stat().st_size)

    part = hub.folder(login.node_id) / f"{content.sha256}.part"
    with pytest.raises(ExchangeError) as caught:
        exchange.put_tensors(content.path, login.node_id, content.sha256, Cutting())
    assert caught.value.kind is FailureKind.CONNECTION
    for use in (exchange.list_own, lambda: exchange.remove(tensor_path(login.node_id, content.sha256))):
        with pytest.raises(ExchangeError) as caught:
            use()
        assert caught.value.kind is FailureKind.LIMIT
    assert [part.stat().st_size] == sizes  # not a byte after the cut was confirmed
    assert hub.admin("PUT", f"/nodes/{login.node_id}/key", ssh_public_key=login.public_key).is_success
    exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
    exchange.close()


def test_the_line_is_encrypted_with_gcm(hub: HubProcess, new_login: NewLogin) -> None:
    login = new_login()
    exchange = SftpExchange(hub.address(login), login.key, login.node_id)
    exchange.list_own()
    transport = exchange._link._transport
    assert transport is not None
    assert transport.local_cipher == transport.remote_cipher == "aes128-gcm@openssh.com"
    assert tuple(transport.get_security_options().ciphers) == CIPHERS  # also where a hub offers slower ones
    exchange.close()


def test_new_session_keys_in_mid_transfer(
    hub: HubProcess, new_login: NewLogin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are due every 512 MiB; here every half MiB."""
    monkeypatch.setattr(paramiko.packet.Packetizer, "REKEY_BYTES", MIB // 2)
    login, content = new_login(), make_content(tmp_path, 4 * MIB)
    exchange = SftpExchange(hub.address(login), login.key, login.node_id)
    exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
    exchange.get_tensors(login.node_id, content.sha256, len(content), tmp_path / "target", Watch())
    assert (tmp_path / "target").read_bytes() == content.data
    exchange.close()


def test_a_hub_that_cannot_hash_is_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded_hub.server, "SHA256", "b3sum")
    content = make_content(tmp_path, 2 * MIB + 1)
    with HubThread(tmp_path / "hub") as hub:
        login = hub.add("site-1")
        exchange = SftpExchange(hub.address(login), login.key, "site-1")
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, "site-1", "ab" * 32, Watch())
        assert caught.value.kind is FailureKind.MISMATCH
        exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        assert exchange.list_own() == (tensor_path("site-1", content.sha256),)
        exchange.close()


@pytest.mark.parametrize(("num_refusals", "reads_back"), [(1, False), (2, False), (3, True)])
def test_a_command_refused_by_chance_is_repeated_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_refusals: int, reads_back: bool
) -> None:
    left = num_refusals
    requested = embedded_hub.server.HubSession.exec_requested
    opened: list[bytes] = []

    def refuse_first(session: embedded_hub.server.HubSession, command: str) -> bool:
        nonlocal left
        left -= 1
        return left < 0 and requested(session, command)

    class Watched(embedded_hub.server.HubFiles):
        def open_for_reading(self, node_id: str, raw: bytes) -> int:
            opened.append(threading.current_thread().name.encode())
            return super().open_for_reading(node_id, raw)

    monkeypatch.setattr(embedded_hub.server.HubSession, "exec_requested", refuse_first)
    content = make_content(tmp_path, 1000)
    with HubThread(tmp_path / "hub", Watched) as hub:
        login = hub.add("site-1")
        exchange = SftpExchange(hub.address(login), login.key, "site-1")
        exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        exchange.close()
    assert len(opened) == 1
    assert (opened == [b"hub"]) is reads_back  # in the loop's thread: over SFTP


def test_two_connections_of_one_node_bring_the_same_file(hub: HubProcess, new_login: NewLogin, tmp_path: Path) -> None:
    """The round and an errand may publish the same file at once: same name, same bytes, and both must end well."""
    login, content = new_login(), make_content(tmp_path, 3 * MIB)
    failures: list[Exception] = []

    def put() -> None:
        exchange = SftpExchange(hub.address(login), login.key, login.node_id)
        try:
            exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
        except ExchangeError as error:
            failures.append(error)
        finally:
            exchange.close()

    for _ in range(3):
        threads = [threading.Thread(target=put) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        final = hub.folder(login.node_id) / f"{content.sha256}.safetensors"
        assert final.read_bytes() == content.data
        final.unlink()
