"""Mistakes in the learning code, each a patch: a test that cannot see one would let it into the product.

    tests/mutants/<name>.patch      a unified diff against this tree, below a header:
        the mistake in a sentence or two, with the section of methods.md that names it
        red: tests/...::test_name   each of these, alone, must fail with the patch (all parameters of a name together)

    the tree, copied to a throw-away folder -> the patch -> a pytest of its own over the named tests -> every name red

Beside `tests/planted`, which plants bugs in a running program by replacing functions, this reaches lines inside one.
To refresh a patch that no longer applies: make its mistake in the tree, put `git diff` of it below the old header, and
undo it. A patch that cannot be refreshed because its line is gone needs another mistake of that kind.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
COPIED = ("benchmarks", "libs", "tests", "pyproject.toml")
_RED = "red: "


class StaleMutantError(Exception):
    """The lines that a patch changes are not there any more."""


@dataclass(frozen=True)
class Mutant:
    path: Path
    what: str
    red: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.stem


def read(path: Path) -> Mutant:
    header, begin, _ = path.read_text().partition("\n--- a/")
    lines = header.splitlines()
    what = " ".join(line for line in lines if line and not line.startswith(_RED))
    red = tuple(line.removeprefix(_RED).strip() for line in lines if line.startswith(_RED))
    if not (begin and what and red):
        raise ValueError(f"{path.name} needs a sentence, the tests it turns red and a diff: see mutant.py")
    return Mutant(path, what, red)


def all_mutants() -> list[Mutant]:
    return [read(path) for path in sorted(FOLDER.glob("*.patch"))]


def apply(mutant: Mutant, root: Path, *, only_check: bool = False) -> None:
    """Change the tree below `root`, or only see whether that is possible. Raises `StaleMutantError`."""
    command = ["git", "apply", *(["--check"] if only_check else []), str(mutant.path)]
    apart = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}  # a copy belongs to no repository
    done = subprocess.run(command, cwd=root, env=apart, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = f"{mutant.path.name} no longer applies; refresh it as mutant.py says: {done.stderr.strip()}"
        raise StaleMutantError(reason)


def copy_tree(folder: Path) -> Path:
    """What the named tests need, byte code included, so that only what a patch changes is compiled anew."""
    root = folder / "tree"
    for name in COPIED:
        if (source := ROOT / name).is_dir():
            shutil.copytree(source, root / name)
        else:
            shutil.copy2(source, root / name)
    return root


def environment(root: Path) -> dict[str, str]:
    """The copy's packages before the installed ones; of pytest's plug-ins the one that `pyproject.toml` asks for."""
    return {
        "PYTHONPATH": str(root / "libs"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "pytest_timeout",
        "PYTEST_ADDOPTS": "-q",
    }


def defined_tests(file: Path) -> set[str]:
    return set(re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
