"""What a study says of its sources: one that is like another, a class with one image, paths that nobody gave."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hsl_cli.study_file import AnchorOptions, SourceOptions, StudyOptions, load_study
from hsl_model.protocol.errors import ConfigError
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.sat_files import write_bundles
from hsl_study.source_config import SatConfig


def sat_study(sats: tuple[str, ...], **options: Any) -> StudyConfig:
    anchors = AnchorOptions(sats, classes=("malignant=positive", "benign=negative"), per_class=50)
    return load_study("sat-study", StudyOptions(data=SourceOptions(Path("bones.npz")), sats=anchors, **options))


def test_a_source_like_the_own_one_follows_what_the_command_line_says_of_that() -> None:
    found = sat_study(("films.npz", "busbra=us.npz", "cifar10=cifar"))
    own, few = found.sat_configs()["sat"], found.sats["few-positive"]
    assert few == own.model_copy(update={"rare": "positive"})
    assert (few.path, few.reader, few.classes) == (own.path, "npz", {"malignant": "positive", "benign": "negative"})
    assert (own.counts, few.counts, found.sats["few-negative"].counts) == ((50, 50), (50, 1), (1, 50))
    assert found.sats["busbra"].path != own.path


def test_like_names_the_own_source_and_nothing_else() -> None:
    given = sat_study(("films.npz", "busbra=us.npz", "cifar10=cifar")).model_dump()
    for changes in ({"sats": {"few": {"like": "films"}}}, {"sats": {"few": {"like": "sat"}}, "sat": None}):
        with pytest.raises(ValidationError, match='like can only be "sat"'):
            StudyConfig.model_validate(given | changes)


def test_the_published_counts_of_a_site_with_one_image_of_a_class() -> None:
    """methods.md 1.6: 1000 and 1."""
    one = SatConfig(classes={"a": "positive", "b": "negative"}, per_class=1000, rare="positive")
    assert one.counts == (1000, 1)


def test_anchors_that_nobody_gave_are_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_bundles(sat_study(("films.npz",)), tmp_path)
    said = str(caught.value)
    assert "give --sat busbra=PATH, --sat cifar10=PATH, or go without hsl-busbra, hsl-cifar10, hsl-sat-per-node" in said
    named = tuple(said.split("--arm ")[1:])
    assert sat_study(("films.npz",), arms=[name.strip() for name in named]).sats == {}
    unused = sat_study(("films.npz", "busbra=us.npz", "cifar10=cifar")).model_dump()
    arms = [arm for arm in unused["arms"] if arm["name"] in ("hsl", "hsl-busbra")]
    sats = {name: source | {"path": None} for name, source in unused["sats"].items()}
    with pytest.raises(ConfigError, match=r"give --sat busbra=PATH, or go without hsl-busbra: --arm hsl$"):
        write_bundles(StudyConfig.model_validate(unused | {"arms": arms, "sats": sats, "contrasts": []}), tmp_path)


def test_a_folder_of_another_layout_is_told_with_the_option_that_names_layouts(tmp_path: Path) -> None:
    data = SourceOptions(tmp_path, classes=("a=abnormal", "b=normal"))
    config = load_study("combined", StudyOptions(data=data, arms=["swarm"])).model_copy(update={"sat": None})
    with pytest.raises(ConfigError, match=r"--data, read as mura \(another layout: --reader\): .*cannot be opened"):
        StudyFolder.create(config, tmp_path / "study").pool()
