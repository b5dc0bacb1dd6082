"""References and baselines, as docs/studies.md shows them: rows with the columns of any arm, scored on every test."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hsl_model.protocol.clock import SystemClock
from hsl_study.cell_process import run
from hsl_study.config import ArmConfig, StudyConfig
from hsl_study.estimate import BASELINE_S
from hsl_study.folder import StudyFolder
from hsl_study.grid import Grid
from hsl_study.results import Results
from hsl_study.tables import auc_table
from tests.hsl_study.test_study import SMOKE

DOCS = Path(__file__).parents[2] / "docs" / "studies.md"
(EXAMPLE,) = [
    tomllib.loads(block)
    for block in re.findall(r"```toml\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    if block.startswith("gap = ")
]
ARMS: list[dict[str, Any]] = EXAMPLE["arms"]
NUM_MODELS = {
    "swarm": 1, "central": 1, "central-site-class-one": 1, "central-class-all": 1, "central-class-one": 1,
    "splitavg": 3, "splitavg-layer1": 3, "one-scalar": 3, "logistic": 3, "logistic-pooled": 1,
}  # fmt: skip


def study(**changes: Any) -> StudyConfig:
    small = {**EXAMPLE, "seeds": [0], "features": True, "run": {**SMOKE["run"], "num_rounds": 1}}
    return StudyConfig.model_validate({**SMOKE, **small, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """In this process: six processes would take longer to start than to train."""
    folder = StudyFolder.create(study(), tmp_path_factory.mktemp("study"))
    for arm in ARMS:
        folder.finish(run(folder, 0, arm["name"], 0))
    return folder


def test_every_arm_has_a_row_of_the_same_columns(finished: StudyFolder) -> None:
    rows = {arm: row for (_, arm, _), row in finished.rows().items()}
    assert rows.keys() == {arm["name"] for arm in ARMS}
    for row in rows.values():
        assert list(row.nodes) == ["clinic-a", "clinic-b", "clinic-c"]
        counts = {node: (one.num_positive, one.num_negative) for node, one in row.nodes.items()}
        assert counts == {"clinic-a": (6, 12), "clinic-b": (12, 6), "clinic-c": (9, 9)}
        assert all(one.auc is not None and one.all_domain_auc is not None for one in row.nodes.values())
        assert row.mean_validation_auc is not None
    assert len({row.config_sha256 for row in rows.values()}) == len(ARMS)
    assert len({row.final_digest for row in rows.values()}) == len(ARMS)
    lines = {line[0]: line for line in auc_table(Results(finished), "given").rows}
    assert {len(line) for line in lines.values()} == {2 + 3 + 2 + 1}
    assert lines["swarm"][-1] == "0.00 (of the means 0.00)" or lines["swarm"][-1].startswith("undefined")
    assert not list((finished.path / "cells").iterdir())


def test_central_has_one_model_and_own_baselines_and_fronts_one_a_node(finished: StudyFolder) -> None:
    for arm, num_models in NUM_MODELS.items():
        with np.load(finished.scores(("given", arm, 0))) as found:
            assert len({row.tobytes() for row in found["logits"]}) == num_models, arm
            assert (found["held"].sum(axis=0) == 1).all()


def test_whoever_holds_a_network_has_features_on_the_nodes_own_images(finished: StudyFolder) -> None:
    """Central's are of its one network, from the start that Swarm has as well."""
    found = {arm: dict(Results(finished).features("given", arm)).get(0) for arm in NUM_MODELS}
    assert {arm for arm, one in found.items() if one is None} == {"one-scalar", "logistic", "logistic-pooled"}
    swarm, central = found["swarm"], found["central"]
    assert swarm is not None
    assert central is not None
    assert np.bincount(central.node).tolist() == [18, 18, 18]
    assert (central.labels == swarm.labels).all()
    assert (central.before == swarm.before).all()
    assert (central.after != swarm.after).any(axis=1).all()


def test_hours_of_a_baseline_are_not_those_of_a_network(finished: StudyFolder) -> None:
    said: list[str] = []
    Grid(finished, SystemClock(), said.append).run(jobs=1, budget_hours=0.0)
    assert said[-1].startswith("0 cells to run")
    baseline = [arm for arm in finished.config.arms if arm.baseline is not None][:1]
    folder = StudyFolder(finished.path)
    folder.config = finished.config.model_copy(update={"arms": tuple(baseline), "seeds": (5,)})
    _, costs = Grid(folder, SystemClock(), said.append)._waiting(folder.pool())
    assert costs == {(0, "one-scalar"): BASELINE_S}


def test_references_train_no_second_task_unless_told_and_a_split_is_nothing_else() -> None:
    config = study(phantoms={"sites": 3, "cases_per_site": 100})
    runs = {arm.name: config.run_config(arm, ("a", "b"), 0, None) for arm in config.arms}
    assert {run.method.name for run in runs.values()} == {"swarm"}
    assert {run.architecture for run in runs.values()} == {"plain"}
    with pytest.raises(ValidationError, match="arm of its own"):
        ArmConfig.model_validate({"name": "both", "split": {}, "pooled": {}})
    with pytest.raises(ValidationError, match="sampler"):
        study(arms=[{"name": "wrong", "pooled": {"sampler": "site"}}], gap=None)


def test_a_killed_baseline_is_run_again(tmp_path: Path) -> None:
    folder = StudyFolder.create(study(arms=[arm for arm in ARMS if arm["name"] == "one-scalar"], gap=None), tmp_path)
    first = run(folder, 0, "one-scalar", 0)  # its row was never written
    again = run(folder, 0, "one-scalar", 0)
    assert first.model_dump(exclude={"seconds"}) == again.model_dump(exclude={"seconds"})
