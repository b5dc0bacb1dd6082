"""The admin's commands against the real coordinator on a real socket: both sides spell everything alike."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
import uvicorn
from typer.testing import Result

from coordinator.app import create_app
from coordinator.settings import CoordinatorSettings
from tests.coordinator.fakes import MemoryHub
from tests.hsl_cli.helpers import a_config

Hsl = Callable[..., Result]
TOKEN = "4f1b0c7d9e2a8836475a1b2c3d4e5f60"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    settings = CoordinatorSettings(
        workdir=tmp_path, admin_token=TOKEN, hub_admin_token=TOKEN[::-1], hub_admin_url="http://hub.test"
    )
    config = uvicorn.Config(create_app(settings, hub=MemoryHub()), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    quiet = structlog.testing.capture_logs()  # the service's log goes to stdout unless its process configures it
    with quiet, socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def admin(hsl: Hsl, served: str) -> Hsl:
    return lambda *arguments: hsl(*arguments, "--url", served, "--token", TOKEN)


def test_from_the_first_node_to_a_run_that_was_stopped(admin: Hsl, tmp_path: Path) -> None:
    for node_id in ("site-1", "site-2"):
        made = json.loads(admin("nodes", "add", node_id, "--name", f"Hospital {node_id}", "--json").stdout)
        assert len(made["code"]) >= 8
    again = json.loads(admin("nodes", "add", "site-1", "--new-code", "--json").stdout)
    assert again["code"] != made["code"]
    assert "never seen" in admin("nodes", "list").stdout
    assert "Hospital site-2" in admin("nodes", "show", "site-2").stdout

    path = tmp_path / "run.json"
    path.write_text(a_config().model_dump_json())
    run_id = json.loads(admin("run", "create", "--config", path, "--json").stdout)["run_id"]
    assert "invited" in admin("run", "show", run_id).stdout
    refused = admin("run", "start", run_id)
    assert refused.exit_code == 1
    assert "site-1, site-2" in refused.stderr
    assert json.loads(admin("run", "list", "--status", "running", "--json").stdout) == []
    assert admin("run", "stop", run_id, "--yes").exit_code == 0
    watched = admin("run", "watch", run_id)
    assert watched.exit_code == 1
    assert "stopped" in watched.stderr
    assert "site-2 is revoked" in admin("nodes", "revoke", "site-2", "--yes").stdout
    assert "site-1 is created" in admin("nodes", "release", "site-1").stdout


@pytest.mark.parametrize(
    ("command", "exit_code", "said"),
    [
        (("nodes", "add", "Not An Id"), 2, "node_id"),
        (("nodes", "show", "site-9"), 1, "site-9"),
        (("nodes", "revoke", "site-9", "--yes"), 1, "site-9"),
        (("run", "show", "run-9"), 1, "run-9"),
        (("run", "list", "--status", "sleeping"), 2, "'sleeping' is not a status"),
    ],
)
def test_what_it_refuses_is_one_sentence(admin: Hsl, command: tuple[str, ...], exit_code: int, said: str) -> None:
    found = admin(*command)
    assert found.exit_code == exit_code, found.output
    assert said in found.stderr
    assert "Traceback" not in found.output


def test_a_wrong_token(hsl: Hsl, served: str) -> None:
    found = hsl("run", "list", "--url", served, "--token", "wrong")
    assert found.exit_code == 1
    assert "token" in found.stderr


def test_a_run_that_names_a_stranger(admin: Hsl, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(a_config().model_dump_json())
    found = admin("run", "create", "--config", path)
    assert found.exit_code in (1, 2)
    assert "site-1" in found.stderr
