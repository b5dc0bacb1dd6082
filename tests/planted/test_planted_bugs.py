"""Every planted bug turns the tests it names red; and this frame itself does not call something found that is not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.planted import bugs
from tests.planted.plant import Bug
from tests.planted.run import PlantedRun

pytestmark = pytest.mark.faults  # each is a pytest of its own
TABLE = [pytest.param(name, bug, marks=bug.marks, id=name) for name, bug in bugs.BUGS.items()]


@pytest.mark.parametrize(("name", "bug"), TABLE)
def test_a_planted_bug_is_found(name: str, bug: Bug, tmp_path: Path, count: Callable[[str, int], None]) -> None:
    run = PlantedRun(name, bug, tmp_path)
    if run.is_skipped:
        pytest.skip("what its tests need is not on this machine")
    assert not run.errors, run.output
    assert run.was_reached, f"no test came by the planted code\n{run.output}"
    assert run.missed_by == [], run.output
    count("planted bugs found", 1)


def test_what_is_not_found_is_said_so(tmp_path: Path) -> None:
    """A bug that no test can notice, and one that nothing comes by: both must come out as missed."""
    test = "tests/hsl_model/protocol/test_manifest.py"
    harmless = Bug("the same as before", {}, (test,))
    run = PlantedRun("", harmless, tmp_path)
    assert (run.missed_by, run.was_reached, run.errors) == ([test], False, [])
    assert set(run.ends.values()) == {"passed"}
