"""The runbook without an engine: every block is marked, and every `hsl` command in it exists with those options."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from hsl_cli.main import app
from tests.docs.runbook import Step, steps


def commands(step: Step) -> Iterator[list[str]]:
    for line in step.script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for service in ("coordinator", "node"):
            if [service, "hsl"] in (words[i : i + 2] for i in range(len(words))):
                yield words[words.index("hsl") + 1 :]


def test_every_procedure_of_the_issue_is_there_and_runs() -> None:
    found = {(step.name, step.role) for step in steps() if step.role}
    for name, role in (
        ("install", "hub"),
        ("join", "site"),
        ("start", "hub"),
        ("stuck", "hub"),
        ("revive", "site"),
        ("disk", "hub"),
        ("rotate-admin", "hub"),
        ("back up", "hub"),
        ("restore", "hub"),
        ("upgrade", "hub"),
    ):
        assert (name, role) in found
    assert len(found) == sum(1 for step in steps() if step.role), "two blocks of one name"


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"line {step.line}")
def test_its_hsl_commands_exist(step: Step) -> None:
    for words in commands(step):
        command: Any = typer.main.get_command(app)
        path: list[str] = []
        while hasattr(command, "commands"):
            path.append(words.pop(0))
            command = command.commands[path[-1]]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word for word in words if re.match(r"--\w", word)}
        assert given <= known, f"{path} has no {given - known}"


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ("```sh\nls\n```\n\nIf it fails: look.\n", "neither where it runs"),
        ("<!-- run: x on moon -->\n```sh\nls\n```\n\nIf it fails: look.\n", "neither where it runs"),
        ("<!-- run: x on hub -->\n```sh\nls\n```\n\nMore.\n", "what to do"),
        ("<!-- run: x on hub -->\n```sh\nls\n```\n\n## Next\n\nIf it fails: look.\n", "what to do"),
    ],
)
def test_a_block_without_its_mark_or_advice_is_refused(page: str, missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        steps(page)
