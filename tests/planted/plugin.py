"""Loaded by `-p tests.planted.plugin` in a planted run: plants the bug first, then writes down how each test ended."""

import json
import os
from pathlib import Path

import pytest

from tests.planted.plant import FOLDER, REPORTS, plant_from_environment


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    plant_from_environment()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = {"test": report.nodeid, "when": report.when, "outcome": report.outcome}
    with (Path(os.environ[FOLDER]) / REPORTS).open("a") as file:
        file.write(json.dumps(found) + "\n")
