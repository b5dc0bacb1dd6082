"""Shared by all tests: a throw-away PostgreSQL where its programs are on this machine; the counts of the suites."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import counting

# Nothing of it survives the tests, so nothing needs to reach the disk.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "listen_addresses": "",  # a socket in its own folder: no port that somebody else could have
}


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int], None]]:
    """For the lines at the end of a run: how many cells or cases of a suite this test went through, and where."""
    with contextmanager(counting.counter_of)(request, "cells and cases") as counter:
        yield lambda what, number=1: counter.update({what: number})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", action="store_true", help="keep the counts in benchmarks/results/reliability.jsonl")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    counting.tell(terminalreporter, record=config.getoption("--record"))


def _postgresql_program(name: str) -> Path | None:
    """The newest of Debian's folders, else what PATH has (which may be a wrapper that wants its own clusters)."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which(name)
    return installed[-1] if installed else Path(on_path) if on_path else None


def _run_as_ordinary_user(*command: str | Path) -> None:
    """PostgreSQL refuses to run as root."""
    prefix = ("runuser", "-u", "nobody", "--") if os.geteuid() == 0 else ()
    done = subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        pytest.fail(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of the `postgres` database of a server that lives as long as the tests."""
    programs = {name: _postgresql_program(name) for name in ("initdb", "pg_ctl", "postgres")}
    if absent := [name for name, path in programs.items() if path is None]:
        reason = f"PostgreSQL is not installed: no {', '.join(absent)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    initdb, pg_ctl = programs["initdb"] or "", programs["pg_ctl"] or ""
    with tempfile.TemporaryDirectory(prefix="hsl-postgresql-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder, data = Path(name), Path(name) / "data"  # short: a socket's path may have about 100 characters
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
        _run_as_ordinary_user(initdb, "-D", data, "-U", "hsl", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        options = " ".join(f"-c {key}='{value}'" for key, value in _SETTINGS.items()) + f" -k {folder}"
        _run_as_ordinary_user(pg_ctl, "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://hsl@/postgres?host={folder}"
        finally:
            _run_as_ordinary_user(pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
