"""What every `HubAdmin` must do, whatever the hub is. Whether a node gets in is asked with a real SSH login."""

import base64
import socket
from pathlib import Path

import paramiko
import pytest

from coordinator.hub.admin import HubAdminError, HubFile
from hsl_model.protocol.errors import RemotePathError
from tests.coordinator.hub.conftest import ManagedHub
from tests.embedded_hub.helpers import PATIENCE_S, Login, make_login

SHA = "ab" * 32


def log_in(managed: ManagedHub, login: Login) -> paramiko.Transport:
    """With the address and the pinned key that the node would be told."""
    address = managed.admin.address(login.node_id)
    transport = paramiko.Transport(socket.create_connection((address.host, address.port), timeout=PATIENCE_S))
    try:
        kind, encoded = address.host_key.split()[:2]
        transport.connect(
            hostkey=paramiko.PKey.from_type_string(kind, base64.b64decode(encoded)),
            username=address.username,
            pkey=paramiko.Ed25519Key.from_private_key_file(str(login.key)),
        )
    except BaseException:
        transport.close()
        raise
    return transport


def list_folder(transport: paramiko.Transport, node_id: str) -> list[str]:
    sftp = transport.open_sftp_client()
    assert sftp is not None
    channel = sftp.get_channel()
    assert channel is not None
    channel.settimeout(PATIENCE_S)
    return sftp.listdir(f"/nodes/{node_id}")


def test_a_node_is_made_once_and_gets_in_with_its_key(managed: ManagedHub, node_id: str, tmp_path: Path) -> None:
    login = make_login(node_id, tmp_path)
    for _ in range(2):
        managed.admin.ensure_node(node_id)
    assert managed.folder(node_id).is_dir()
    with pytest.raises(paramiko.AuthenticationException):
        log_in(managed, login)
    for _ in range(2):
        managed.admin.set_key(node_id, login.public_key)
    with log_in(managed, login) as transport:
        assert list_folder(transport, node_id) == []


def test_a_new_key_takes_the_place_of_the_old(managed: ManagedHub, node_id: str, tmp_path: Path) -> None:
    old, new = make_login(node_id, tmp_path), make_login(node_id, tmp_path)
    managed.admin.ensure_node(node_id)
    managed.admin.set_key(node_id, old.public_key)
    with log_in(managed, old) as session:
        managed.admin.set_key(node_id, new.public_key)
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            list_folder(session, node_id)
    with pytest.raises(paramiko.AuthenticationException):
        log_in(managed, old)
    log_in(managed, new).close()


def test_cut_ends_sessions_and_keeps_files(managed: ManagedHub, node_id: str, tmp_path: Path) -> None:
    login = make_login(node_id, tmp_path)
    managed.admin.ensure_node(node_id)
    managed.admin.set_key(node_id, login.public_key)
    (managed.folder(node_id) / f"{SHA}.safetensors").write_bytes(b"abc")
    with log_in(managed, login) as session:
        assert list_folder(session, node_id) == [f"{SHA}.safetensors"]
        for _ in range(2):
            managed.admin.cut(node_id)
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            list_folder(session, node_id)
    with pytest.raises(paramiko.AuthenticationException):
        log_in(managed, login)
    assert managed.admin.list(node_id) == (HubFile(f"{SHA}.safetensors", 3),)
    managed.admin.ensure_node(node_id)  # alone, it lets nobody in
    with pytest.raises(paramiko.AuthenticationException):
        log_in(managed, login)
    managed.admin.set_key(node_id, login.public_key)
    log_in(managed, login).close()


def test_files_are_listed_and_released(managed: ManagedHub, node_id: str) -> None:
    managed.admin.ensure_node(node_id)
    assert managed.admin.list(node_id) == ()
    names = (f"{SHA}.part", f"{SHA}.safetensors", f"run-1.round-0001.{SHA}.json")
    for size, name in enumerate(names):
        (managed.folder(node_id) / name).write_bytes(b"x" * size)
    assert managed.admin.list(node_id) == tuple(HubFile(name, size) for size, name in enumerate(names))
    managed.admin.cut(node_id)
    for _ in range(2):
        managed.admin.release(node_id, names[:2])
    assert [file.name for file in managed.admin.list(node_id)] == [names[2]]
    managed.admin.release(node_id, ())


def test_only_files_of_the_node_are_released(managed: ManagedHub, node_id: str) -> None:
    other = f"{node_id}-other"
    for one in (node_id, other):
        managed.admin.ensure_node(one)
        (managed.folder(one) / f"{SHA}.safetensors").write_bytes(b"abc")
    for name in (f"../{other}/{SHA}.safetensors", "..", "", "notes.txt", f"/nodes/{other}/{SHA}.safetensors"):
        with pytest.raises(HubAdminError):
            managed.admin.release(node_id, (name,))
    assert len(managed.admin.list(node_id)) == len(managed.admin.list(other)) == 1


def test_unknown_nodes(managed: ManagedHub, tmp_path: Path) -> None:
    managed.admin.cut("never-seen")
    assert managed.admin.list("never-seen") == ()
    with pytest.raises(HubAdminError):
        managed.admin.set_key("never-seen", make_login("never-seen", tmp_path).public_key)


@pytest.mark.parametrize("node_id", ["", "..", "a/b", "A", "a" * 33])
def test_names_that_are_no_nodes_are_not_even_asked_for(managed: ManagedHub, node_id: str) -> None:
    for call in (managed.admin.ensure_node, managed.admin.cut, managed.admin.list):
        with pytest.raises(RemotePathError):
            call(node_id)


def test_a_key_that_is_none_is_refused(managed: ManagedHub, node_id: str) -> None:
    managed.admin.ensure_node(node_id)
    with pytest.raises(HubAdminError, match=node_id):
        managed.admin.set_key(node_id, "ssh-ed25519 AAAA")


def test_the_address_is_the_servers(managed: ManagedHub, node_id: str) -> None:
    expected = managed.address.model_copy(update={"username": node_id})
    assert managed.admin.address(node_id) == expected
    assert managed.admin.healthy()
