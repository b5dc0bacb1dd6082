"""The hub as a process: what survives a restart, what ends at once, what it refuses to start with."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest
from pydantic import SecretStr, ValidationError

from embedded_hub.errors import UsersFileError
from embedded_hub.settings import HubSettings
from hub_kit.errors import AlreadyServedError
from tests.embedded_hub.helpers import HTTP, PATIENCE_S, HubProcess, HubThread, Login, make_login, names, wait_until

SHA = "ab" * 32
ENDED = (OSError, EOFError, paramiko.SSHException)  # what Paramiko raises on a connection that is gone


def sftp_of(transport: paramiko.Transport) -> paramiko.SFTPClient:
    sftp = transport.open_sftp_client()
    assert sftp is not None
    channel = sftp.get_channel()
    assert channel is not None
    channel.settimeout(PATIENCE_S)
    return sftp


def test_a_restart_changes_nothing_for_the_nodes(private_hub: HubProcess) -> None:
    hub = private_hub
    login, gone = hub.add("site-1"), hub.add("site-2")
    assert hub.admin("POST", "/nodes/site-2/cut").is_success
    (hub.folder("site-1") / f"{SHA}.part").write_bytes(b"half")
    before = hub.info
    for number in (signal.SIGINT, signal.SIGKILL):  # SIGTERM ends every other hub of these tests
        transport = hub.connect(login)  # a live connection must not hold it up
        sftp = sftp_of(transport)
        assert hub.stop(number) == (-9 if number == signal.SIGKILL else 0)
        with pytest.raises(ENDED):
            sftp.listdir("/")
        transport.close()
        hub.start()
        assert hub.info == before
    with hub.connect(login) as transport:
        assert sftp_of(transport).listdir("/nodes/site-1") == [f"{SHA}.part"]
    with pytest.raises(paramiko.AuthenticationException):
        hub.connect(gone)


def test_what_others_must_not_read_is_private(hub: HubProcess, new_node: Callable[[], Login]) -> None:
    new_node()
    for name in ("host_ed25519", "users.json"):
        assert stat.S_IMODE((hub.root / name).stat().st_mode) == 0o600, name
    assert hub.token not in hub.log()


def test_hub_json_says_how_to_reach_both_ports(hub: HubProcess) -> None:
    info = hub.info
    assert set(info) == {"host", "port", "host_key", "admin_url"}
    assert (info["host"], info["port"]) == ("127.0.0.1", hub.port)
    assert info["admin_url"] == f"http://127.0.0.1:{hub.admin_port}"
    assert info["host_key"].startswith("ssh-ed25519 AAAA")


def test_cutting_a_node_ends_its_connections_at_once(hub: HubProcess, new_node: Callable[[], Login]) -> None:
    login, other = new_node(), new_node()
    path = f"/nodes/{login.node_id}/{SHA}.part"
    with hub.connect(login) as first, hub.connect(login) as second, hub.connect(other) as bystander:
        file, idle, watching = sftp_of(first).open(path, "wb"), sftp_of(second), sftp_of(bystander)
        file.set_pipelined(True)
        file.write(b"before")
        assert idle.listdir("/") == watching.listdir("/") == ["nodes"]
        wait_until(lambda: (hub.folder(login.node_id) / f"{SHA}.part").stat().st_size, "the write")
        assert hub.admin("POST", f"/nodes/{login.node_id}/cut").json() == {"num_connections": 2}
        for use in (
            lambda: file.write(b"after") or file.flush() or idle.listdir("/"),
            lambda: idle.listdir("/"),
            lambda: first.open_session(timeout=PATIENCE_S),
        ):
            with pytest.raises(ENDED):
                use()
        assert (hub.folder(login.node_id) / f"{SHA}.part").read_bytes() == b"before"
        assert watching.listdir("/") == ["nodes"]
        with pytest.raises(paramiko.AuthenticationException):
            hub.connect(login)
    assert hub.admin("POST", f"/nodes/{login.node_id}/cut").is_success  # again is fine


def test_a_new_key_ends_the_sessions_of_the_old_one(
    hub: HubProcess, new_node: Callable[[], Login], tmp_path: Path
) -> None:
    old = new_node()
    new = make_login(old.node_id, tmp_path)
    with hub.connect(old) as transport:
        sftp = sftp_of(transport)
        assert hub.admin("PUT", f"/nodes/{old.node_id}/key", ssh_public_key=old.public_key + " comment").is_success
        assert sftp.listdir("/") == ["nodes"]  # the same key again changes nothing
        assert hub.admin("PUT", f"/nodes/{old.node_id}/key", ssh_public_key=new.public_key).is_success
        with pytest.raises(ENDED):
            sftp.listdir("/")
    with pytest.raises(paramiko.AuthenticationException):
        hub.connect(old)
    hub.connect(new).close()


def test_a_node_without_a_key_cannot_log_in(hub: HubProcess, tmp_path: Path) -> None:
    login = make_login("keyless", tmp_path)
    assert hub.admin("PUT", "/nodes/keyless").is_success
    with pytest.raises(paramiko.AuthenticationException):
        hub.connect(login)


def test_two_hubs_do_not_serve_one_folder(hub: HubProcess) -> None:
    before = hub.info
    with pytest.raises(AlreadyServedError), HubThread(hub.root):
        pass
    assert hub.info == before


@pytest.mark.parametrize("token", ["", "short", "a" * 40, "changemechangeme", "changeme-changeme-changeme"])
def test_a_weak_token_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    with pytest.raises(ValidationError, match="openssl rand") as caught:
        HubSettings(root=tmp_path, admin_token=SecretStr(token))
    assert not token or token not in str(caught.value)


def test_a_hub_without_settings_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HSL_")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValidationError, match=r"root(.|\n)*admin_token"):
        HubSettings()


def test_a_broken_list_of_nodes_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "users.json").write_text("{")
    (tmp_path / "hub.json").write_text("{}")
    with pytest.raises(UsersFileError, match="lock out every node"), HubThread(tmp_path):
        pass
    assert (tmp_path / "users.json").read_text() == "{"
    assert not (tmp_path / "hub.json").exists()  # nobody may think the old one still holds


@pytest.mark.parametrize("which", ["port", "admin_port"])
def test_a_port_that_is_taken_ends_the_start(hub: HubProcess, tmp_path: Path, which: str) -> None:
    with pytest.raises(OSError, match="in use"), HubThread(tmp_path, **{which: getattr(hub, which)}):
        pass
    assert not (tmp_path / "hub.json").exists()


# --- the admin API ---------------------------------------------------------------------------------------------------

ENDPOINTS = [
    ("GET", "/address"),
    ("PUT", "/nodes/site-1"),
    ("PUT", "/nodes/site-1/key"),
    ("POST", "/nodes/site-1/cut"),
    ("GET", "/nodes/site-1/files"),
    ("POST", "/nodes/site-1/release"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer wrong", "Bearer ä", "Basic dG9rZW4="])
def test_nothing_is_done_without_the_token(hub: HubProcess, method: str, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    reply = HTTP.request(method, hub.admin_url + path, headers=headers)
    assert reply.status_code == 401
    assert reply.json()["code"] == "hub_token_wrong"


@pytest.mark.parametrize("node_id", ["UPPER", "a_b", "-a", "a" * 33, "%2e%2e", "a%2fb"])
def test_only_node_ids_are_nodes(hub: HubProcess, node_id: str) -> None:
    before = names(hub.root / "files" / "nodes")
    assert hub.admin("PUT", f"/nodes/{node_id}").status_code in (404, 422)
    assert names(hub.root / "files" / "nodes") == before


@pytest.mark.parametrize("key", ["", "ssh-ed25519 AAAA", "ssh-ed25519", "nonsense", "ssh-rsa AAAAB3NzaC1yc2E="])
def test_only_ed25519_keys_are_keys(hub: HubProcess, new_node: Callable[[], Login], key: str) -> None:
    login = new_node()
    reply = hub.admin("PUT", f"/nodes/{login.node_id}/key", ssh_public_key=key)
    assert (reply.status_code, reply.json()["code"]) == (422, "hub_key_invalid")
    hub.connect(login).close()


def test_the_admin_port_is_on_loopback_only(hub: HubProcess) -> None:
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    local = {line.split()[1] for line in table.splitlines() if " 0A " in line}  # 0A: listening
    assert {address for address in local if address.endswith(f":{hub.admin_port:04X}")} == {
        f"0100007F:{hub.admin_port:04X}"
    }
