"""`hsl --help` answers at once, every command explains itself, and the exit codes are documented."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

Hsl = Callable[..., Result]
HEAVY = ("torch", "numpy", "fastapi", "paramiko", "sqlalchemy", "httpx", "pydantic", "cryptography", "matplotlib")
COMMANDS = {
    (): ("demo", "coordinator", "hub", "node", "run", "nodes", "data", "predict"),
    ("coordinator",): ("serve", "backup", "recover"),
    ("hub",): ("serve",),
    ("node",): (
        "enrol",
        "serve",
        "status",
        "bind",
        "accept",
        "withdraw",
        "retry",
        "pause",
        "resume",
        "rotate",
        "trust",
        "verify-egress",
        "export",
    ),
    ("run",): ("create", "start", "pause", "resume", "stop", "show", "watch", "list"),
    ("nodes",): ("add", "list", "show", "revoke", "release"),
    ("data",): ("report", "sat", "phantoms"),
}
PATHS = [(*group, name) for group, names in COMMANDS.items() for name in names]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from hsl_cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print('heavy:', *(name for name in {HEAVY} if name in sys.modules))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("heavy:\n")


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_explains_itself(hsl: Hsl, path: tuple[str, ...]) -> None:
    shown = hsl(*path, "--help")
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) > 5


@pytest.mark.parametrize("group", COMMANDS, ids=lambda group: " ".join(group) or "hsl")
def test_no_command_is_forgotten(hsl: Hsl, group: tuple[str, ...]) -> None:
    shown = hsl(*group, "--help").stdout
    assert [name for name in COMMANDS[group] if f" {name} " not in shown] == []


def test_exit_codes_are_documented(hsl: Hsl) -> None:
    shown = " ".join(hsl("--help").stdout.split())
    for said in ("0 done", "1 refused", "2 wrong usage", "3 the service cannot be reached", "130 interrupted"):
        assert said in shown


def test_without_a_command_it_shows_the_help_and_wrong_usage_is_2(hsl: Hsl) -> None:
    assert "Usage" in hsl("run").output
    assert hsl("run", "shwo", "x").exit_code == 2
