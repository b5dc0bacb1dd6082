"""The agent as a process: what it imports, how big it is, how it starts and ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.states import NodePhase
from node_agent.egress import EgressLedger
from node_agent.journal import Journal
from node_agent.main import main
from tests.node_agent.alliance import RUN, Alliance, make_config, until
from tests.node_agent.helpers import Hospital

MAX_RESIDENT_BYTES = 150 * 1000 * 1000


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path / "a", Alliance(tmp_path, make_config())).join()


def environment(hospital: Hospital) -> dict[str, str]:
    workdir, nobody = str(hospital.settings.workdir), "http://127.0.0.1:9"  # a port where nobody answers
    return {**os.environ, "HSL_NODE_WORKDIR": workdir, "HSL_NODE_COORDINATOR_URL": nobody}


@contextmanager
def agent(hospital: Hospital) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "node_agent"]
    with subprocess.Popen(command, env=environment(hospital), stderr=subprocess.PIPE) as process:
        try:
            assert until(hospital.mailbox.changed, hospital.settings.site_file.exists, 30.0)
            yield process
        finally:
            process.kill()


def test_the_daemon_never_imports_torch_nor_reads_images() -> None:
    code = (
        "import sys, node_agent.main, node_agent.exchange.directory\n"
        "print(*{'torch', 'torchvision', 'sklearn', 'scipy', 'PIL', 'imagehash'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_it_serves_small_refuses_a_second_agent_and_frees_its_folder_even_when_killed(hospital: Hospital) -> None:
    with agent(hospital) as process:
        with hospital.site() as site:
            assert site.get("/status").json()["explanation"]
        assert psutil.Process(process.pid).memory_info().rss <= MAX_RESIDENT_BYTES
        second = subprocess.run(
            [sys.executable, "-m", "node_agent"], env=environment(hospital), capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert f"process {process.pid}" in second.stderr
        assert "Traceback" not in second.stderr
    hospital.settings.site_file.unlink()  # left behind by the kill
    with agent(hospital) as process, hospital.site() as site:
        assert site.get("/status").json()["boot_number"] == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert not hospital.settings.site_file.exists()


def test_ctrl_c_ends_it_with_a_snapshot(tmp_path: Path) -> None:
    """In this process: the handler is all that is different."""
    alliance = Alliance(tmp_path, make_config())
    hold = tmp_path / "hold"
    hold.touch()
    hospital = Hospital(tmp_path / "a", alliance, "--hold", hold).join()
    with hospital.running():
        hospital.wait(lambda: hospital.row().phase is NodePhase.TRAINING and hospital.mailbox.progress)
        hospital.mailbox.stop()
    assert (hospital.settings.round_folder(RUN, 1) / "snapshot.json").exists()
    assert hospital.row().phase is NodePhase.TRAINING


def test_an_agent_that_has_not_enrolled_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HSL_NODE_WORKDIR", str(tmp_path))
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        assert main([]) == 1
    finally:
        signal.signal(signal.SIGTERM, handlers[0])
        signal.signal(signal.SIGINT, handlers[1])
    assert "hsl node enrol" in capsys.readouterr().err


def test_the_egress_ledger_is_checked_offline_by_one_command(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HSL_NODE_WORKDIR", str(hospital.settings.workdir))
    journal = Journal(hospital.settings.journal_path, SystemClock())
    assert main(["egress"]) == 0
    assert EgressLedger(journal, SystemClock()).head() in capsys.readouterr().out
    with journal.transaction() as connection:
        connection.execute("UPDATE egress SET num_bytes = 1 WHERE seq = 1")
    journal.close()
    assert main(["egress"]) == 1
    assert "Entry 1" in capsys.readouterr().err


def test_a_missing_or_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HSL_NODE_WORKDIR", raising=False)
    monkeypatch.setenv("HSL_NODE_NUM_THREADS", "none")
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "HSL_NODE_WORKDIR" in said
    assert "HSL_NODE_NUM_THREADS" in said


def test_an_exception_in_the_log_shows_no_local_variables() -> None:
    """They hold the node's token."""
    code = """
import structlog
from node_agent.main import configure_logging
configure_logging("info")
def fail(token):
    raise ValueError("broken")
try:
    fail("hsln_secret")
except ValueError as error:
    structlog.get_logger().warning("phase failed", exc_info=error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ValueError" in done.stderr
    assert "hsln_secret" not in done.stderr
