"""`hsl node check`: the lines, the JSON and the exit code. What is found is tested in tests/node_agent/check."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from hsl_cli.site_check import exit_code, hub_place
from hsl_model.protocol.messages import HubPlace
from hsl_model.protocol.transport import HUB_PLACE
from node_agent.check.finding import CheckReport, Concern, Estimate, Finding, Outcome, Part
from tests.hsl_cli.helpers import NOON, FakeService

Hsl = Callable[..., Result]


def a_report(*found: tuple[Concern, Outcome]) -> CheckReport:
    findings = tuple(
        Finding(part=Part.HUB, concern=concern, outcome=outcome, sentence="So it is.") for concern, outcome in found
    )
    estimate = Estimate(training_s=1.0, transfer_s=None, sentence="Who knows.")
    return CheckReport(
        at=NOON, agent_version="0.1.0", is_enrolled=False, findings=findings, needed=(), estimate=estimate
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([(Concern.PORT, Outcome.OK), (Concern.UPLOAD, Outcome.WARNING), (Concern.DISK, Outcome.SKIPPED)], 0),
        ([(Concern.DISK, Outcome.FAILED), (Concern.PORT, Outcome.OK)], 1),
        ([(Concern.HOST_KEY, Outcome.FAILED)], 1),
        ([(Concern.CERTIFICATE, Outcome.FAILED)], 1),
        ([(Concern.DISK, Outcome.FAILED), (Concern.PORT, Outcome.FAILED)], 3),
        ([(Concern.PROXY, Outcome.FAILED)], 3),
        ([(Concern.NAME, Outcome.FAILED)], 3),
    ],
)
def test_the_exit_code_says_whose_turn_it_is(found: list[tuple[Concern, Outcome]], code: int) -> None:
    assert exit_code(a_report(*found)) == code


@pytest.mark.parametrize(
    ("text", "expected"),
    [("hub.example:2022", ("hub.example", 2022)), ("hub.example", ("hub.example", 22)), ("[::1]:22", ("::1", 22))],
)
def test_a_hub_is_named_by_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert hub_place(text) == HubPlace(host=expected[0], port=expected[1])


@pytest.fixture
def blocked(coordinator: FakeService) -> FakeService:
    """Its hub's port takes nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        coordinator.on("GET", HUB_PLACE, HubPlace(host="127.0.0.1", port=taken.getsockname()[1]))
    return coordinator


def test_each_line_says_what_to_ask_for(hsl: Hsl, blocked: FakeService, tmp_path: Path) -> None:
    workdir = tmp_path / "node"
    done = hsl("node", "check", "--workdir", workdir, "--coordinator", blocked.url, "--no-training")
    assert done.exit_code == 3
    lines = done.stdout.splitlines()
    (failed,) = (line for line in lines if line.startswith("failed"))
    assert "hub port" in failed
    assert "refused" in failed
    assert "Ask the firewall team: allow outgoing TCP to 127.0.0.1 port" in failed
    assert failed.endswith("(SFTP over SSH).")
    assert sum(line.startswith(("ok ", "failed ", "not checked ")) for line in lines) == 14
    assert "What the network has to let through" in done.stdout
    assert "cannot be said yet" in lines[-1]
    assert not workdir.exists()


def test_a_script_reads_json(hsl: Hsl, blocked: FakeService, tmp_path: Path) -> None:
    done = hsl("node", "check", "--workdir", tmp_path, "--coordinator", blocked.url, "--no-training", "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert CheckReport.model_validate(found).failed[0].concern is Concern.PORT
    assert found["needed"][0]["direction"] == "outgoing"


def test_wrong_usage_is_said(hsl: Hsl, tmp_path: Path) -> None:
    for arguments, word in (
        (("--coordinator", "coordinator.example"), "not an address"),
        (("--coordinator", "https://c.example", "--hub", "hub:http"), "HOST:PORT"),
    ):
        done = hsl("node", "check", "--workdir", tmp_path, *arguments)
        assert done.exit_code == 2
        assert word in done.stderr
    done = hsl("node", "check", "--workdir", tmp_path / "nobody")
    assert (done.exit_code, "--coordinator URL" in done.stderr) == (2, True)
