"""Bugs planted on purpose, and what is needed to plant one: the suite is judged by whether it notices.

    Bug ──> a pytest of its own, with `-p tests.planted.plugin` ──> only the tests that the bug names
               plugin: `plant()` before any test module is imported      └─> every one of them must FAIL, and the
               each replaced function says when it is called                 planted code must have been reached

A bug replaces functions of the product, found by "package.module:name" or "package.module:Class.name". It is planted
before anything imports the module, so a `from … import name` elsewhere gets the bug too; where two modules of a chain
are imported together, name the one that looks the function up. Only the process of the tests has it: a test whose
product code runs in a child process calls `plant_from_environment()` in that child, or another test is chosen.
"""

import functools
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAME, FOLDER = "PLANTED_BUG", "PLANTED_FOLDER"  # environment of the planted run; children inherit them
REACHED, REPORTS = "reached", "reports.jsonl"  # in the folder

Make = Callable[[Any], Callable[..., Any]]  # the right function -> the wrong one


@dataclass(frozen=True)
class Bug:
    """`what` is the mistake in one line. `wrong` says which functions it replaces. `found_by`: tests, each of which
    alone must notice (all parameters of a name without brackets together)."""

    what: str
    wrong: dict[str, Make]
    found_by: tuple[str, ...]
    marks: tuple[Any, ...] = field(default=())


def plant(bug: Bug) -> None:
    for where, make in bug.wrong.items():
        module, _, path = where.partition(":")
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        right = getattr(owner, name)
        setattr(owner, name, _noticed(right, make(right)))


def _noticed(right: Any, wrong: Callable[..., Any]) -> Callable[..., Any]:
    """A bug that no test comes by would prove nothing, so it leaves a trace."""

    @functools.wraps(right)
    def call(*args: Any, **kwargs: Any) -> Any:
        with (Path(os.environ[FOLDER]) / REACHED).open("ab") as trace:
            trace.write(b".")
        return wrong(*args, **kwargs)

    return call


def plant_from_environment() -> None:
    """Nothing where no bug is named."""
    if name := os.environ.get(NAME):
        from tests.planted.bugs import BUGS

        plant(BUGS[name])
