"""OpenSSH's own client against the hub: an admin who looks with `sftp` must not be left hanging."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.embedded_hub.helpers import PATIENCE_S, HubProcess, Login, names

SHA = "ab" * 32


@pytest.fixture(scope="session")
def program() -> str:
    found = shutil.which("sftp")
    if found is None:
        reason = "OpenSSH's sftp is not installed (Debian: openssh-client)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(program: str, hub: HubProcess, login: Login, commands: str) -> subprocess.CompletedProcess[str]:
    login.key.chmod(0o600)
    known = login.key.with_suffix(".hosts")
    info = hub.info
    known.write_text(f"[{info['host']}]:{info['port']} {info['host_key']}\n")
    options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes")
    return subprocess.run(
        [
            program,
            *("-F", "none", "-q", "-b", "-", "-i", str(login.key), "-P", str(info["port"])),
            *(part for option in options for part in ("-o", option)),
            f"{login.node_id}@{info['host']}",
        ],
        input=commands,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_the_client_of_openssh_does_its_work_and_ends(
    hub: HubProcess, new_node: Callable[[], Login], program: str, tmp_path: Path
) -> None:
    login, source, target = new_node(), tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(300_000))
    part, final = (f"/nodes/{login.node_id}/{SHA}.{ending}" for ending in ("part", "safetensors"))
    done = run(program, hub, login, f"put {source} {part}\nrename {part} {final}\nget {final} {target}\nls -1 /nodes\n")
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == source.read_bytes()
    assert names(hub.folder(login.node_id)) == [f"{SHA}.safetensors"]
    assert f"/nodes/{login.node_id}" in done.stdout


def test_it_ends_with_an_error_where_something_is_refused(
    hub: HubProcess, new_node: Callable[[], Login], program: str, tmp_path: Path
) -> None:
    me, other = new_node(), new_node()
    (tmp_path / "source").write_bytes(b"x")
    done = run(program, hub, me, f"put {tmp_path / 'source'} /nodes/{other.node_id}/{SHA}.part\n")
    assert done.returncode != 0
    assert "ermission denied" in done.stderr
    assert names(hub.folder(other.node_id)) == []
