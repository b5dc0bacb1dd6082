"""docs/adding-a-method.md is followed to the letter in a copy of the tree, where its example is tested and trained."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.mutant import ROOT, copy_tree, environment
from tests.planted.run import NamedTests

PAGE = ROOT / "docs" / "adding-a-method.md"
EXAMPLE = "tests/hsl_model/methods/test_smooth.py"
HOUSE = "tests/test_house.py::test_every_method_has_its_file_and_its_test"
_BLOCK = re.compile(r"^<!-- (?P<what>[^>]+) -->\n```(?:python|toml)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    return {block["what"]: block["text"] for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def follow_the_page(root: Path) -> Path:
    """Write its files and its line where it says. The file of its arm."""
    for what, text in blocks().items():
        kind, _, name = what.partition(": ")
        path = root / name
        if kind == "file":
            assert not path.exists(), f"{name} is in the tree: the page needs another example"
            path.write_text(text)
        elif kind == "line in":
            before, end, after = path.read_text().partition("\n}\n")  # of METHODS
            assert before.rpartition("\n\n")[2].startswith("METHODS"), "the registry's end is not where it was"
            path.write_text(f"{before}\n{text.rstrip()}{end}{after}")
    arm = root / "arm.toml"
    arm.write_text(blocks()["arm"])
    return arm


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = copy_tree(tmp_path_factory.mktemp("followed"))
    return root, follow_the_page(root)


def test_the_example_passes_its_own_test_and_those_of_the_registry(followed: tuple[Path, Path], tmp_path: Path) -> None:
    root, _ = followed
    every = "tests/hsl_model/methods/test_registry.py"
    trained = "tests/hsl_model/test_engine.py::test_a_round_changes_the_model_and_reports_what_it_did[smooth]"
    run = NamedTests((EXAMPLE, every, trained, HOUSE), tmp_path, environment(root), root)
    assert set(run.ends.values()) == {"passed"}, run.output
    assert {f"{EXAMPLE}::test_the_smoothed_loss_by_hand", trained, HOUSE} <= run.ends.keys()
    assert f"{every}::test_a_method_says_where_it_comes_from[smooth]" in run.ends


def test_the_example_trains_a_federation_that_is_not_its_reduction(followed: tuple[Path, Path], tmp_path: Path) -> None:
    root, arm = followed
    text = arm.read_text()
    reduced = text.replace('name = "smooth"\n', 'name = "reduced"\n', 1).replace("epsilon = 0.1", "epsilon = 0.0")
    arms = root / "arms.toml"
    arms.write_text(text + reduced)
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.example_federation", str(arms), str(tmp_path)],
        cwd=root,
        env={**os.environ, **environment(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("2 ")
    assert second.startswith("2 ")
    assert first != second


@pytest.mark.parametrize("left_out", ["smooth.py", "test_smooth.py"])
def test_without_one_of_its_pieces_the_house_test_is_red(left_out: str, tmp_path: Path) -> None:
    root = copy_tree(tmp_path)
    follow_the_page(root)
    (piece,) = root.rglob(left_out)
    piece.unlink()
    assert NamedTests((HOUSE,), tmp_path, environment(root), root).missed_by == []
