"""docs/adding-a-method.md is followed to the letter in a copy of the tree, where its example is tested and trained."""

import re
from pathlib import Path

import pytest

from tests.mutants.mutant import ROOT, copy_tree, environment
from tests.planted.run import NamedTests

PAGE = ROOT / "docs" / "adding-a-method.md"
EXAMPLE = "tests/hsl_model/methods/test_smooth.py"
REGISTRY = "tests/hsl_model/methods/test_registry.py"
TRAINED = "tests/hsl_model/test_engine.py::test_a_round_changes_the_model_and_reports_what_it_did[smooth]"
FEDERATION = "tests/docs/example_federation.py::test_the_arm_of_the_page_trains_a_federation_that_is_not_its_reduction"
HOUSE = "tests/test_house.py::test_every_method_has_its_file_and_its_test"
_BLOCK = re.compile(r"^<!-- (?P<what>[^>]+) -->\n```(?:python|toml)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, str]:
    return {block["what"]: block["text"] for block in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def follow_the_page(root: Path) -> None:
    """Write its files, its line and its arm where it says."""
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
    (root / "arm.toml").write_text(blocks()["arm"])


def test_the_example_passes_its_own_test_and_those_of_the_house_and_trains(tmp_path: Path) -> None:
    root = copy_tree(tmp_path)
    follow_the_page(root)
    run = NamedTests((EXAMPLE, REGISTRY, TRAINED, HOUSE, FEDERATION), tmp_path, environment(root), root)
    assert set(run.ends.values()) == {"passed"}, run.output
    assert {f"{EXAMPLE}::test_the_smoothed_loss_by_hand", TRAINED, HOUSE, FEDERATION} <= run.ends.keys()
    assert f"{REGISTRY}::test_a_method_says_where_it_comes_from[smooth]" in run.ends


@pytest.mark.long
@pytest.mark.parametrize("left_out", ["smooth.py", "test_smooth.py"])
def test_without_one_of_its_pieces_the_house_test_is_red(left_out: str, tmp_path: Path) -> None:
    root = copy_tree(tmp_path)
    follow_the_page(root)
    (piece,) = root.rglob(left_out)
    piece.unlink()
    assert NamedTests((HOUSE,), tmp_path, environment(root), root).missed_by == []
