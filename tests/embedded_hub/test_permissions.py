"""The permission matrix over the wire, with Paramiko as it is shipped: what a node that is not ours could try."""

import hashlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from tests.embedded_hub.helpers import HubProcess, Login
from tests.embedded_hub.operations import (
    ABSENT,
    DENIED,
    MANIFEST,
    MATRIX,
    NEW,
    OPERATIONS,
    SHA,
    contents,
    furnish,
    read,
    run,
    verdict,
    write,
)


@dataclass
class Client:
    transport: paramiko.Transport
    sftp: paramiko.SFTPClient
    login: Login


@pytest.fixture
def me(hub: HubProcess, new_node: Callable[[], Login]) -> Iterator[Client]:
    login = new_node()
    transport = hub.connect(login)
    sftp = transport.open_sftp_client()
    assert sftp is not None
    yield Client(transport, sftp, login)
    transport.close()


@pytest.fixture
def other(new_node: Callable[[], Login]) -> Login:
    return new_node()


def test_the_matrix(hub: HubProcess, me: Client, other: Login) -> None:
    mine, others = hub.folder(me.login.node_id), hub.folder(other.node_id)
    found = {}
    for name, operation in OPERATIONS.items():
        for path in mine.iterdir():
            path.unlink()
        furnish(mine)
        before = furnish(others)
        found[name] = (
            verdict(lambda: operation(me.sftp, f"/nodes/{me.login.node_id}")),  # noqa: B023 - called at once
            verdict(lambda: operation(me.sftp, f"/nodes/{other.node_id}")),  # noqa: B023
        )
        assert contents(others) == before, name
    assert found == MATRIX


def test_every_way_around_the_own_folder_is_closed(hub: HubProcess, me: Client, other: Login) -> None:
    mine, theirs = f"/nodes/{me.login.node_id}", f"/nodes/{other.node_id}"
    furnish(hub.folder(me.login.node_id))
    before = furnish(hub.folder(other.node_id))
    sftp = me.sftp
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: write(sftp, f"{mine}/../{other.node_id}/{NEW}.part"), DENIED),
        (lambda: write(sftp, f"/nodes/../..{theirs}/{NEW}.part"), DENIED),
        (lambda: read(sftp, f"{mine}/../../users.json"), ABSENT),
        (lambda: read(sftp, f"{mine}/../../../users.json"), ABSENT),
        (lambda: read(sftp, "/../../../../etc/passwd"), ABSENT),
        (lambda: read(sftp, "/etc/passwd"), ABSENT),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"{theirs}/{SHA}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"{theirs}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{mine}/{SHA}.part", f"/nodes/{NEW}.safetensors"), ABSENT),
        (lambda: sftp.posix_rename(f"{theirs}/{SHA}.safetensors", f"{mine}/{NEW}.safetensors"), DENIED),
        (lambda: sftp.posix_rename(f"{theirs}/{SHA}.part", f"{mine}/{NEW}.safetensors"), ABSENT),
        (lambda: sftp.posix_rename(f"{mine}/{NEW}.part", f"{mine}/{NEW}.safetensors"), ABSENT),
        (lambda: sftp.remove("/nodes"), DENIED),
        (lambda: sftp.remove(mine), DENIED),
        (lambda: write(sftp, mine), DENIED),
        (lambda: write(sftp, f"/nodes/{me.login.node_id.upper()}/{NEW}.part"), ABSENT),
        (lambda: write(sftp, f"/nodes/nobody/{NEW}.part"), DENIED),
        (lambda: sftp.listdir("/nodes/nobody"), ABSENT),
    ]
    for number, (operation, expected) in enumerate(cases):
        assert verdict(operation) == expected, number
    assert contents(hub.folder(other.node_id)) == before
    assert sftp.normalize("../../..") == "/"
    assert sftp.listdir("/") == ["nodes"]


def test_others_parts_and_strange_files_are_not_listed(hub: HubProcess, me: Client, other: Login) -> None:
    for node_id in (me.login.node_id, other.node_id):
        furnish(hub.folder(node_id))
        (hub.folder(node_id) / "notes.txt").write_text("from somebody with a shell")
    assert me.sftp.listdir(f"/nodes/{me.login.node_id}") == [f"{SHA}.part", f"{SHA}.safetensors", MANIFEST]
    assert me.sftp.listdir(f"/nodes/{other.node_id}") == [f"{SHA}.safetensors", MANIFEST]


def test_links_on_the_disk_lead_nowhere(hub: HubProcess, me: Client, tmp_path: Path) -> None:
    folder, path = hub.folder(me.login.node_id), f"/nodes/{me.login.node_id}"
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for suffix in ("safetensors", "part"):
        (folder / f"{SHA}.{suffix}").symlink_to(secret)
    assert me.sftp.listdir(path) == []
    assert verdict(lambda: me.sftp.stat(f"{path}/{SHA}.part")) == ABSENT
    for operation in (lambda: read(me.sftp, f"{path}/{SHA}.safetensors"), lambda: write(me.sftp, f"{path}/{SHA}.part")):
        with pytest.raises(OSError):  # noqa: PT011 - which one is the system's affair
            operation()
    assert secret.read_text() == "secret"


def test_the_hash_command(hub: HubProcess, me: Client, other: Login) -> None:
    mine, theirs = f"/nodes/{me.login.node_id}", f"/nodes/{other.node_id}"
    furnish(hub.folder(me.login.node_id))
    furnish(hub.folder(other.node_id))
    digest = hashlib.sha256(f"{SHA}.safetensors".encode()).hexdigest()
    for path in (f"{mine}/{SHA}.safetensors", f"{theirs}/{SHA}.safetensors"):
        assert run(me.transport, f"sha256sum {path}") == (0, f"{digest}  {path}\n")
    assert run(me.transport, f"sha256sum '{mine}/{SHA}.part'")[0] == 0
    for hidden in (f"{theirs}/{SHA}.part", f"{mine}/{NEW}.part", "/etc/passwd", f"{mine}/../../users.json"):
        status, text = run(me.transport, f"sha256sum {hidden}")
        assert status == 1
        assert "no such file" in text
    assert run(me.transport, f"sha256sum {mine}")[0] == 1


@pytest.mark.parametrize(
    "command",
    [
        "id",
        "sha256sum",
        "sha256sum a b",
        "sha1sum /x",
        "scp -f /x",
        "sha256sum 'unclosed",
        "sh -c id; sha256sum /x",
        "",
    ],
)
def test_no_other_command_runs(me: Client, command: str) -> None:
    with pytest.raises(paramiko.SSHException, match="Channel closed"):
        run(me.transport, command)
    assert me.sftp.listdir("/") == ["nodes"]  # connection and channel live on


def test_no_shell_no_terminal_no_forwarding(me: Client) -> None:
    with me.transport.open_session(timeout=10) as channel, pytest.raises(paramiko.SSHException):
        channel.invoke_shell()
    with me.transport.open_session(timeout=10) as channel, pytest.raises(paramiko.SSHException):
        channel.get_pty()
    with pytest.raises(paramiko.ChannelException):
        me.transport.open_channel("direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 1), timeout=10)
    with pytest.raises(paramiko.SSHException):
        me.transport.request_port_forward("127.0.0.1", 0)
    with me.transport.open_session(timeout=10) as channel, pytest.raises(paramiko.SSHException):
        channel.invoke_subsystem("netconf")


def test_keys_only(hub: HubProcess, me: Client, tmp_path: Path) -> None:
    for attempt in (
        lambda transport: transport.auth_password(me.login.node_id, "guess"),
        lambda transport: transport.auth_none(me.login.node_id),
        lambda transport: transport.auth_interactive(me.login.node_id, lambda *_: ["guess"]),
    ):
        transport = paramiko.Transport(socket.create_connection(("127.0.0.1", hub.info["port"]), timeout=10))
        transport.start_client(timeout=10)
        with pytest.raises(paramiko.BadAuthenticationType) as caught:
            attempt(transport)
        assert caught.value.allowed_types == ["publickey"]
        transport.close()


def test_only_gcm_is_spoken(hub: HubProcess, me: Client) -> None:
    assert me.transport.local_cipher.endswith("-gcm@openssh.com")
    transport = paramiko.Transport(socket.create_connection(("127.0.0.1", hub.info["port"]), timeout=10))
    transport.get_security_options().ciphers = ("aes128-ctr",)
    with pytest.raises(paramiko.SSHException):
        transport.start_client(timeout=10)
    transport.close()
