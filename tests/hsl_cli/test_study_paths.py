"""Where a study's images are: in its file, or on the command line."""

from pathlib import Path
from typing import Any

import pytest

from hsl_cli.config_file import parse_file
from hsl_cli.errors import BadInputError
from hsl_cli.study_file import AnchorOptions, SourceOptions, StudyOptions, load_study
from hsl_study import configs
from hsl_study.config import StudyConfig

SMOKE = parse_file(configs.path_of("smoke") or Path("smoke"))
assert isinstance(SMOKE, dict)
FILMS = {"reader": "npz", "classes": {"a": "positive", "b": "negative"}}
BONES = {"reader": "npz", "classes": {"a": "fractured", "b": "intact"}}


def study(path: Path | None, sats: list[str], /, **changes: Any) -> StudyConfig:
    given = {**SMOKE, "phantoms": None, "data": BONES, "sat": {**FILMS, "path": "own.npz"}, "sats": {"chest": FILMS}}
    options = StudyOptions(data=SourceOptions(path), sats=AnchorOptions(sats))
    wanted = {name: value for name, value in {**given, **changes}.items() if value is not None}
    return StudyConfig.model_validate(options.over(wanted))


def test_a_name_before_the_path_says_which_shared_anchor_task_it_is_for() -> None:
    found = study(Path("bones.npz"), ["chest=films/a.npz", "./a=b.npz"])
    assert found.data is not None
    assert found.data.path == Path("bones.npz").resolve()
    assert found.sat is not None
    assert found.sat.path == Path("a=b.npz").resolve()
    assert found.sats["chest"].path == Path("films/a.npz").resolve()


def test_without_options_the_files_own_paths_stay_and_are_made_absolute() -> None:
    found = study(None, [])
    assert found.sat is not None
    assert found.sat.path == Path("own.npz").resolve()
    assert found.sats["chest"].path is None


@pytest.mark.parametrize(
    ("changes", "data", "sats", "said"),
    [
        ({}, None, ["bones=a.npz"], r"no section \[sats.bones\]"),
        ({"sat": None, "arms": SMOKE["arms"][2:]}, None, ["a.npz"], r"no section \[sat\]"),
        ({"data": None}, Path("a.npz"), [], r"no section \[data\]"),
        ({"data": None, "phantoms": {}}, Path("a.npz"), [], "This study generates its images"),
    ],
)
def test_a_path_without_its_section_is_refused(
    changes: dict[str, Any], data: Path | None, sats: list[str], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        study(data, sats, **changes)


def test_classes_that_take_no_part_are_named_on_the_command_line() -> None:
    data = SourceOptions(Path("skin.npz"), classes=("4=fractured", "0=intact"), ignored=("1", "2"))
    given = {**SMOKE, "phantoms": None, "data": BONES, "sat": {**FILMS, "path": "own.npz"}}
    options = StudyOptions(data=data, sats=AnchorOptions(ignored=("c",), per_class=50))
    found = StudyConfig.model_validate(options.over(given))
    assert found.data is not None
    assert found.data.classes == {"4": "fractured", "0": "intact"}
    assert found.data.ignored_classes == ("1", "2")
    assert found.sat is not None
    assert found.sat.ignored_classes == ("c",)
    assert (found.sat.classes, found.sat.per_class) == (FILMS["classes"], 50)


@pytest.mark.parametrize(("data", "sats"), [(Path("a.npz"), []), (None, ["a.npz"])])
def test_images_for_a_study_that_generates_them_are_refused_with_what_to_do(data: Path | None, sats: list[str]) -> None:
    with pytest.raises(BadInputError, match="At scale smoke a study generates its images"):
        load_study("combined", StudyOptions("smoke", data=SourceOptions(data), sats=AnchorOptions(sats)))
