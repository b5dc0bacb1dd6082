"""The scripts of `make sftpgo` and `make toxiproxy`, with a stand-in for Go that takes no minute: what they say, what
interruptions leave."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sftpgo_hub.program import VERSION, find_program
from tests.embedded_hub.helpers import PATIENCE_S, wait_until
from tests.faults.toxiproxy import PROGRAM

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/sftpgo/build.sh"
GO = """#!/bin/sh
case "$1 $2" in
  "env GOVERSION") echo "$FAKE_GO" ;;
  "mod download") printf '{\\n\\t"Path": "x",\\n\\t"Dir": "%s",\\n\\t"GoModSum": "y"\\n}\\n' "$FAKE_MODULE" ;;
  build*)
    while [ "$1" != -o ]; do shift; done
    printf half > "$2"
    echo x >> "$FAKE_BUILDS"
    while [ -e "$FAKE_BUILDS.wait" ]; do sleep 0.02; done
    printf whole > "$2"; chmod +x "$2" ;;
esac
"""


class Build:
    def __init__(self, folder: Path) -> None:
        self.folder, self.cache, self.script = folder, folder / "cache", SCRIPT
        (folder / "bin").mkdir()
        (folder / "bin" / "go").write_text(GO)
        (folder / "bin" / "go").chmod(0o755)
        module = folder / "module"
        module.mkdir()
        (module / "sftpgo.json").write_text("{}")
        module.chmod(0o555)
        self.builds, self.gate = folder / "builds", folder / "builds.wait"
        self.environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HSL_CACHE": str(self.cache),
            "TMPDIR": str(folder),
            "FAKE_GO": "go1.26.1",
            "FAKE_MODULE": str(module),
            "FAKE_BUILDS": str(self.builds),
        }

    @property
    def program(self) -> Path:
        return self.cache / f"sftpgo-{VERSION}" / "sftpgo"

    def start(self, **changed: str) -> subprocess.Popen[str]:
        environment = {**self.environment, **changed}
        return subprocess.Popen(
            [self.script],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, **changed: str) -> tuple[int, str, str]:
        process = self.start(**changed)
        out, error = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, error

    def num_builds(self) -> int:
        return len(self.builds.read_text().splitlines()) if self.builds.exists() else 0


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


def test_it_prints_the_path_and_builds_once(build: Build) -> None:
    for _ in range(2):
        code, out, error = build.run()
        assert (code, out) == (0, f"{build.program}\n"), error
    assert build.num_builds() == 1
    assert find_program({"HSL_CACHE": str(build.cache)}) == build.program
    assert list(build.folder.glob("sftpgo-build*")) == []
    assert build.run(PATH="/usr/bin:/bin")[0] == 0, "what is there needs no Go"


def test_toxiproxy_is_built_the_same_way(build: Build) -> None:
    build.script = ROOT / "tests/faults/toxiproxy.sh"
    for _ in range(2):
        code, out, error = build.run()
        assert (code, out) == (0, f"{build.cache / PROGRAM}\n"), error
    assert build.num_builds() == 1


@pytest.mark.parametrize(
    ("version", "ok"), [("go1.25.8", True), ("go1.25.7", False), ("go1.9", False), ("go1.27rc1", True)]
)
def test_an_old_go_is_said_so(build: Build, version: str, ok: bool) -> None:
    code, out, error = build.run(FAKE_GO=version)
    assert (code == 0) == ok
    assert ok or ("needs 1.25.8 or newer" in error and out == "")


def test_a_missing_go_is_said_so(build: Build) -> None:
    (build.folder / "bin" / "go").unlink()
    for tool in ("bash", "dirname", "env", "sort", "head"):
        (build.folder / "bin" / tool).symlink_to(f"/usr/bin/{tool}")
    code, out, error = build.run(PATH=str(build.folder / "bin"))
    assert (code, out) == (1, "")
    assert "Go is not installed" in error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_half_way_it_leaves_no_half_program(build: Build, number: signal.Signals) -> None:
    build.gate.touch()
    process = build.start()
    wait_until(lambda: build.num_builds() == 1, "the build to begin")
    os.killpg(process.pid, number)
    process.communicate(timeout=PATIENCE_S)
    assert not build.program.exists()
    build.gate.unlink()
    assert build.run()[0] == 0
    assert build.program.read_text() == "whole"


def test_twice_at_once(build: Build) -> None:
    build.gate.touch()
    both = [build.start(), build.start()]
    wait_until(lambda: build.num_builds() == 2, "both to build")
    build.gate.unlink()
    for process in both:
        out, error = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, out) == (0, f"{build.program}\n"), error
    assert build.program.read_text() == "whole"
    assert sorted(path.name for path in build.program.parent.iterdir()) == ["sftpgo", "sftpgo.json"]
