"""`hsl study run --override`: sections of a file of one's own in place of the study's."""

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

OVERRIDE = """
seeds = [7]
[run]
num_rounds = 1
[run.training]
batch_size = 8
images_per_epoch = 16
num_anchors = 4
[[arms]]
name = "alone"
run = { method = { name = "local" }, network = { encoder = "resnet_small" } }
"""


def test_whole_sections_are_replaced_and_the_rest_stays(hsl: Callable[..., Result], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(OVERRIDE)
    told = hsl("study", "run", "smoke", "--override", own, "--workdir", tmp_path / "run", "--budget-hours", 1e-9)
    assert "1 cells would take" in told.stderr
    study = json.loads((tmp_path / "run" / "study.json").read_text())
    assert study["seeds"] == [7]
    assert [arm["name"] for arm in study["arms"]] == ["alone"]
    assert "network" not in study["run"], "sections are not mixed"
    assert study["scenarios"][0]["nodes"].keys() == {"clinic-a", "clinic-b", "clinic-c"}


def test_a_wrong_key_names_both_files(hsl: Callable[..., Result], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text("seed = 7\n")
    told = hsl("study", "run", "smoke", "--override", own, "--workdir", tmp_path / "run")
    assert told.exit_code != 0
    assert "smoke.toml with" in told.stderr
    assert "own.toml" in told.stderr
    assert "seed: unknown key" in told.stderr
