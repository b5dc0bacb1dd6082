"""`hsl data …` on phantoms: what a site's people see before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Hsl = Callable[..., Result]

TASK = """
[task]
task_id = "bones"
positive_class = "fracture"
negative_class = "none"
modality = "radiograph"
height = 16
width = 16
"""
CLASSES = ("--class", "fractured=fracture", "--class", "intact=none")


@pytest.fixture
def images(hsl: Hsl, tmp_path: Path) -> Path:
    found = hsl("data", "phantoms", "--output", tmp_path, "--sites", 1, "--cases", 60, "--size", 16, "--json")
    (path,) = json.loads(found.stdout)
    return Path(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(TASK)
    return path


def test_report_counts_what_is_there(hsl: Hsl, images: Path, config: Path) -> None:
    shown = hsl("data", "report", "--path", images, "--config", config, *CLASSES)
    assert shown.exit_code == 0
    assert "60 images found" in shown.stdout
    counted = json.loads(hsl("data", "report", "--path", images, "--config", config, *CLASSES, "--json").stdout)
    assert counted["num_found"] == 60


def test_sat_prints_the_digest_and_report_looks_for_leaks_into_it(hsl: Hsl, images: Path, config: Path) -> None:
    sat = images.with_name("sat.safetensors")
    made = hsl(
        *("data", "sat", "--path", images, "--positive", "fractured", "--negative", "intact", "--size", 16),
        *("--per-class", 5, "--output", sat, "--json"),
    )
    assert made.exit_code == 0, made.stderr
    facts = json.loads(made.stdout)
    assert (facts["num_positive"], facts["num_negative"]) == (5, 5)
    found = hsl("data", "report", "--path", images, "--config", config, *CLASSES, "--sat", sat, "--json")
    assert json.loads(found.stdout)["not_used"]["in_sat"] == 10
    assert json.loads(found.stdout)["sat_digest"] == facts["digest"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--class", "fractured"), "write it as SITE_CLASS=TASK_CLASS"),
        (("--class", "intact=none", "--class", "intact=fracture"), "mapped twice"),
        (("--class", "fractured=fracture"), "no class of this site is mapped to 'none'"),
        ((*CLASSES, "--ignore-class", "intact"), "both mapped and ignored"),
        ((*CLASSES, "--domain", "elbow"), "No case has domain"),
        ((*CLASSES, "--max-cases", "1"), "--max-cases"),
        ((*CLASSES, "--reader", "tiff"), "--reader"),
        ((*CLASSES, "--sat", "missing.safetensors"), "--sat missing.safetensors"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    hsl: Hsl, images: Path, config: Path, arguments: tuple[str, ...], said: str
) -> None:
    found = hsl("data", "report", "--path", images, "--config", config, *arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_file_that_is_missing_and_one_without_a_task(hsl: Hsl, images: Path, config: Path) -> None:
    found = hsl("data", "report", "--path", "nowhere", "--config", config, *CLASSES)
    assert (found.exit_code, found.stderr) == (2, "error: --path nowhere: there is no such file or folder.\n")
    config.write_text('[task]\ntask_id = "bones"\n')
    found = hsl("data", "report", "--path", images, "--config", config, *CLASSES)
    assert found.exit_code == 2
    assert "positive_class: is required" in found.stderr


def test_too_few_images_for_a_sat(hsl: Hsl, images: Path, tmp_path: Path) -> None:
    found = hsl(
        *("data", "sat", "--path", images, "--positive", "fractured", "--negative", "intact", "--size", 16),
        *("--per-class", 500, "--output", tmp_path / "sat"),
    )
    assert found.exit_code == 2
    assert "500 images of fractured were asked for, but only 29 can be used" in found.stderr
