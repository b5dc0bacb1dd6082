"""`hsl predict` with a real network: one line an image, the same whatever else is scored, errors by image."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from hsl_cli.model_folder import ModelCard, write_model
from hsl_data.phantoms import write_phantom_sat
from hsl_model.engine import write_initial
from hsl_model.protocol.config import MethodConfig, NetworkConfig, RunConfig, TaskConfig, TrainingConfig

Hsl = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("model"), "hsl", "given")


def exported(folder: Path, method: str, intensity: str) -> Path:
    sat = write_phantom_sat(folder / "anchors", 4, 16, 0)
    task = TaskConfig(
        task_id="bones", positive_class="fracture", negative_class="none", modality="radiograph", height=16, width=16
    )
    config = RunConfig(
        name="bones",
        task=task,
        nodes=("site-1", "site-2"),
        method=MethodConfig(name=method),
        network=NetworkConfig(encoder="resnet_small"),
        training=TrainingConfig.model_validate({"num_anchors": 4, "intensity": intensity}),
        sat_digest=sat.digest,
    )
    made = write_initial(config, folder / "initial")
    card = ModelCard(run_id="run-1", node_id="site-1", round_number=0, config=config)
    write_model(card, [made.shared.path], sat.path, folder / "export")
    return folder / "export"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in ("one", "two", "three")]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (20, 24), dtype=np.uint8)).save(path)
    return paths


def test_a_score_depends_on_the_image_alone(hsl: Hsl, model: Path, images: list[Path]) -> None:
    together = json.loads(hsl("predict", *images, "--model", model, "--json").stdout)
    alone = [json.loads(hsl("predict", path, "--model", model, "--json").stdout)[0] for path in images]
    assert together == alone
    assert [one["image"] for one in together] == [str(path) for path in images]
    assert len({one["probability"] for one in together}) == 3
    assert all(0 < one["probability"] < 1 and one["positive_class"] == "fracture" for one in together)


@pytest.mark.parametrize(("intensity", "is_equal"), [("given", False), ("equalised", True), ("anchors", True)])
def test_a_copy_from_a_darker_machine_has_the_same_score_where_the_run_says_so(
    intensity: str, is_equal: bool, hsl: Hsl, tmp_path: Path
) -> None:
    """By what was exported alone; of the task's size, as resampling comes after a machine's curve."""
    folder = exported(tmp_path, "swarm", intensity)
    film = np.random.default_rng(0).integers(100, 256, (16, 16), dtype=np.uint8)
    for name, pixels in (("one", film), ("dark", film - 90)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = json.loads(hsl("predict", tmp_path / "one.png", tmp_path / "dark.png", "--model", folder, "--json").stdout)
    assert (found[0]["probability"] == found[1]["probability"]) is is_equal


def test_an_image_that_cannot_be_read_does_not_keep_the_others_back(
    hsl: Hsl, model: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "letter.png").write_text("Dear colleague,")
    found = hsl("predict", images[0], tmp_path / "letter.png", tmp_path / "none.png", "--model", model)
    assert found.exit_code == 2
    assert found.stdout.endswith(f"{images[0]}\n")
    assert "letter.png cannot be used" in found.stderr
    assert "none.png cannot be used: no such file" in found.stderr


def test_a_folder_that_is_no_model(hsl: Hsl, images: list[Path], tmp_path: Path) -> None:
    found = hsl("predict", images[0], "--model", tmp_path)
    assert found.exit_code == 2
    assert "hsl node export" in found.stderr


def test_damaged_weights_and_foreign_anchors_are_refused(
    hsl: Hsl, model: Path, images: list[Path], tmp_path: Path
) -> None:
    for name in ("run.json", "sat.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    raw = (model / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(raw[:-100])
    found = hsl("predict", images[0], "--model", tmp_path)
    assert found.exit_code == 2
    assert "was refused" in found.stderr
    write_phantom_sat(tmp_path / "sat.safetensors", 4, 16, seed=1)
    found = hsl("predict", images[0], "--model", tmp_path)
    assert found.exit_code == 2
    assert "has digest" in found.stderr
