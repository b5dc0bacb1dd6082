"""Runs tests by name in a pytest of their own and says how each ended; with a bug planted, which of them missed it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.planted.plant import FOLDER, NAME, REACHED, REPORTS, Bug

ROOT = Path(__file__).parents[2]
PATIENCE_S = 550.0  # below the timeout of the test that runs this


class NamedTests:
    """What became of tests by name. `ends` has every test that ran: failed, passed, skipped or error."""

    def __init__(self, names: tuple[str, ...], folder: Path, environment: Mapping[str, str], root: Path = ROOT) -> None:
        self.names = names
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "tests.planted.plugin", "-p", "no:cacheprovider", *names],
            cwd=root,
            env={**os.environ, **environment, FOLDER: str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.output = done.stdout
        reports = folder / REPORTS
        lines = reports.read_text().splitlines() if reports.exists() else []
        self.ends = _ends([json.loads(line) for line in lines])

    @property
    def missed_by(self) -> list[str]:
        """Names of which not one test failed."""
        return [name for name in self.names if "failed" not in self._of(name)]

    @property
    def is_skipped(self) -> bool:
        return bool(self.ends) and set(self.ends.values()) == {"skipped"}

    @property
    def errors(self) -> list[str]:
        """Tests that failed before they began: that shows nothing."""
        return [test for test, end in self.ends.items() if end == "error"]

    def _of(self, name: str) -> list[str]:
        return [end for test, end in self.ends.items() if test == name or test.startswith(f"{name}[")]


class PlantedRun(NamedTests):
    """What became of the tests of one bug."""

    def __init__(self, name: str, bug: Bug, folder: Path) -> None:
        super().__init__(bug.found_by, folder, {NAME: name})
        self.was_reached = (folder / REACHED).exists()


def _ends(reports: list[dict[str, str]]) -> dict[str, str]:
    ends: dict[str, str] = {}
    for report in reports:
        if report["outcome"] == "failed" and report["when"] == "setup":
            ends[report["test"]] = "error"
        elif report["when"] == "call" or report["outcome"] == "skipped":
            ends[report["test"]] = report["outcome"]
    return ends
