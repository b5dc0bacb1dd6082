"""Every mutant turns each test it names red; without it they are green; and no red is seen where there is none."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutants.mutant import (
    ROOT,
    Mutant,
    StaleMutantError,
    all_mutants,
    apply,
    copy_tree,
    defined_tests,
    environment,
    read,
)
from tests.planted.run import NamedTests

MUTANTS = all_mutants()
TABLE = [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS]


@pytest.mark.long
@pytest.mark.parametrize("mutant", TABLE)
def test_a_mutant_is_found(mutant: Mutant, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    root = copy_tree(tmp_path)
    apply(mutant, root)
    run = NamedTests(mutant.red, tmp_path, environment(root), root)
    assert not run.errors, run.output
    assert run.missed_by == [], f"{mutant.what}\n{run.output}"
    count("mutants found", 1)


@pytest.mark.long
def test_without_a_mutant_every_named_test_is_green(tmp_path: Path) -> None:
    root = copy_tree(tmp_path)
    names = tuple(sorted({name for mutant in MUTANTS for name in mutant.red}))
    run = NamedTests(names, tmp_path, environment(root), root)
    assert set(run.ends.values()) == {"passed"}, run.output
    assert run.missed_by == list(names), "each name was run, and none failed"


@pytest.mark.parametrize("mutant", TABLE)
def test_a_patch_applies_and_its_tests_exist(mutant: Mutant) -> None:
    apply(mutant, ROOT, only_check=True)
    for name in mutant.red:
        file, _, test = name.partition("::")
        assert test.partition("[")[0] in defined_tests(ROOT / file), f"{file} has no {test}"


def test_a_patch_whose_lines_are_gone_says_that_it_wants_refreshing(tmp_path: Path) -> None:
    (tmp_path / "libs").mkdir()
    with pytest.raises(StaleMutantError, match="no longer applies; refresh it"):
        apply(MUTANTS[0], tmp_path)


def test_a_patch_without_its_header_is_refused(tmp_path: Path) -> None:
    for text in ("red: tests/x.py::test_y\n\n--- a/x\n", "A mistake.\n\n--- a/x\n", "A mistake.\nred: x::test_y\n"):
        (tmp_path / "a.patch").write_text(text)
        with pytest.raises(ValueError, match="needs a sentence"):
            read(tmp_path / "a.patch")


@pytest.mark.long
def test_a_change_that_no_test_can_see_comes_out_as_missed_and_the_copy_is_what_is_tested(tmp_path: Path) -> None:
    root = copy_tree(tmp_path)
    name = "tests/hsl_model/test_metrics.py::test_auc_by_hand"
    changed = root / "libs/hsl_model/metrics.py"
    changed.write_text(changed.read_text() + "\nUNUSED = 1\n")
    assert NamedTests((name,), tmp_path, environment(root), root).missed_by == [name]
    code = "import hsl_model, hsl_data, hsl_study.cells as c; print(*(m.__file__ for m in (hsl_model, hsl_data, c)))"
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment(root), capture_output=True, text=True, check=True
    )
    assert all(path.startswith(str(root)) for path in said.stdout.split()), said.stdout
