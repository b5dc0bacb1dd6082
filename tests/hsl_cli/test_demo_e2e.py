"""`hsl demo` as a person uses it: interrupted in the middle, continued, and asked again when it is finished."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hsl_cli.demo.processes import Record
from tests.sftpgo.helpers import need_sftpgo

OPTIONS = ("--sites", "2", "--rounds", "1", "--epochs", "1", "--cases", "40", "--size", "16")


def begin(workdir: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hsl_cli.main", "demo", "--workdir", str(workdir), *OPTIONS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(demo: subprocess.Popen[str], wanted: str) -> list[str]:
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if wanted in line:
            return lines
    pytest.fail(f"{wanted!r} was never said:\n{''.join(lines)}")


@pytest.mark.e2e
@pytest.mark.sftpgo
def test_through_a_real_sftpgo_that_the_coordinator_provisions(tmp_path: Path) -> None:
    need_sftpgo()
    workdir = tmp_path / "demo"
    with begin(workdir, "--hub", "sftpgo") as demo:
        said = "".join(read_until(demo, "sftpgo hub at"))
        hub = Record.model_validate_json((workdir / "processes.json").read_bytes()).processes["hub"]
        server = psutil.Process(hub.pid).children(recursive=True)
        assert [one.name() for one in server] == ["sftpgo"]
        said += "".join(read_until(demo, "auc.png"))
        assert demo.wait(60) == 0, said
    _, alive = psutil.wait_procs(server, timeout=10)
    assert alive == []
    result = json.loads((workdir / "result.json").read_text())
    assert [found["status"] for found in result["rounds"]] == ["completed", "completed"]
    for found in result["rounds"]:
        assert set(found["digests"].values()) == {found["fused_digest"]}
    for site in ("site-1", "site-2"):
        assert list((workdir / "hub" / "files" / "nodes" / site).glob("*.safetensors"))
    drifts = [line for line in (workdir / "logs" / "coordinator.log").read_text().splitlines() if "hub_drift" in line]
    assert drifts == []


@pytest.mark.e2e
def test_interrupted_killed_into_and_continued(tmp_path: Path) -> None:
    workdir = tmp_path / "demo"
    with begin(workdir) as demo:
        read_until(demo, "round 0 opened")
        recorded = Record.model_validate_json((workdir / "processes.json").read_bytes()).processes
        assert sorted(recorded) == ["coordinator", "hub", "site-1", "site-2"]
        tree = [child for one in recorded.values() for child in psutil.Process(one.pid).children(recursive=True)]
        demo.send_signal(signal.SIGINT)
        assert "same command continues" in "".join(read_until(demo, "hsl "))
        assert demo.wait(60) == 130
    services = [psutil.Process(one.pid) for one in recorded.values() if psutil.pid_exists(one.pid)]
    _, alive = psutil.wait_procs([*services, *tree], timeout=10)
    assert alive == []

    with begin(workdir) as demo:
        read_until(demo, "continues")
        killed = Record.model_validate_json((workdir / "processes.json").read_bytes()).processes["coordinator"]
        os.kill(killed.pid, signal.SIGKILL)
        said = "".join(read_until(demo, "coordinator ended with signal 9; restarted") + read_until(demo, "auc.png"))
        assert demo.wait(60) == 0, said
    result = json.loads((workdir / "result.json").read_text())
    assert result["complete"]
    assert [found["status"] for found in result["rounds"]] == ["completed", "completed"]
    for found in result["rounds"]:
        assert set(found["digests"].values()) == {found["fused_digest"]}
    assert result["final_digest"] in said
    assert (workdir / "auc.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"site-1\W+site-2", said)

    with begin(workdir) as demo:
        assert "This demo is finished" in "".join(read_until(demo, "auc.png"))
        assert demo.wait(60) == 0
