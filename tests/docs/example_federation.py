"""Run by `test_adding_a_method.py` in a copy of the tree where the page was followed; `arm.toml` there is its arm."""

import tomllib
from pathlib import Path

from hsl_model.engine import EngineOptions
from hsl_study import configs
from hsl_study.config import StudyConfig
from hsl_study.federation import run_federation
from tests.hsl_model.engine_helpers import site_data

ROOT = Path(__file__).parents[2]


def test_the_arm_of_the_page_trains_a_federation_that_is_not_its_reduction(tmp_path: Path) -> None:
    smoke = tomllib.loads((configs.path_of("smoke") or Path()).read_text())
    (arm,) = tomllib.loads((ROOT / "arm.toml").read_text())["arms"]
    reduced = {"name": "reduced", "run": {"method": {"name": arm["name"], "options": {"epsilon": 0.0}}}}
    study = StudyConfig.model_validate({**smoke, "arms": [arm, reduced]})
    sites = {"clinic-a": site_data(1), "clinic-b": site_data(2)}
    found = []
    for one in study.arms:
        config = study.run_config(one, tuple(sites), 0, None)
        found.append(run_federation(config, sites, tmp_path / one.name, EngineOptions(snapshot_every_steps=None)))
    assert [len(rounds) for rounds in found] == [3, 3]  # round 0 and the two of the study
    assert found[0][0].fused_digest == found[1][0].fused_digest, "the same initial weights"
    assert found[0][-1].fused_digest != found[1][-1].fused_digest
