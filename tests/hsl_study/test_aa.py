"""The A/A study: on simulated trainings, on real ones in small, and what is not one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsl_cli.config_file import parse_file
from hsl_model.metrics import roc_auc
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.errors import ConfigError
from hsl_study import aa, configs
from hsl_study.aa import Rate, rates
from hsl_study.cells import CellRow, NodeScores
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.grid import Grid
from hsl_study.statistics import Interval

AA: Any = parse_file(configs.path_of("aa") or Path("aa"))
NUM_NODES, NUM_IMAGES = 6, 60
ZEROS = "0" * 64


def config(seeds: str, num_trainings: int, **changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**AA, "seeds": seeds, "arms": AA["arms"][:num_trainings], **changes})


def simulated(folder: Path, training_sd: float) -> StudyFolder:
    """Trainings whose quality is drawn around one mean, on images that are the same for all trainings of a split."""
    study = StudyFolder.create(config("0-19", 4), folder)
    (folder / "scores").mkdir()
    labels = (np.arange(NUM_IMAGES) % 2).astype(np.uint8)
    random = np.random.default_rng(3)
    for seed in study.config.seeds:
        images = random.normal(0, 1, NUM_IMAGES)
        for arm in study.config.arms:
            quality = random.normal(1, training_sd, (NUM_NODES, 1))
            logits = (images + quality * labels + random.normal(0, 0.3, (NUM_NODES, NUM_IMAGES))).astype(np.float32)
            finish(study, arm.name, seed, logits, labels)
    return study


def finish(study: StudyFolder, arm: str, seed: int, logits: np.ndarray, labels: np.ndarray) -> None:
    names = [f"node-{node}" for node in range(len(logits))]
    undefined = dict.fromkeys(("auprc", "accuracy", "recall", "precision", "all_domain_auc"))
    nodes = {
        name: NodeScores(num_positive=30, num_negative=30, auc=roc_auc(scores, labels), **undefined)
        for name, scores in zip(names, logits, strict=True)
    }
    row = CellRow(
        scenario="feature-skew", arm=arm, seed=seed, config_sha256=ZEROS, num_rounds=1, deployed_round=1,
        final_digest=ZEROS, mean_validation_auc=None, nodes=nodes, scores_sha256=ZEROS, versions={}, num_threads=1,
        seconds=1.0,
    )  # fmt: skip
    np.savez(study.scores(row.key), logits=logits, label=labels, group=np.arange(len(labels)))
    study.cell(row.key).mkdir(parents=True)
    study.finish(row)


def by_name(found: list[Rate]) -> dict[str, Rate]:
    return {rate.analysis.removeprefix("within a split: "): rate for rate in found}


def test_trainings_that_vary_break_the_pooled_bootstrap_alone(tmp_path: Path) -> None:
    found = by_name(rates(simulated(tmp_path, training_sd=0.4), cases_per_cluster=50, num_resamples=100))
    assert {name: rate.num_cases for name, rate in found.items()} == {
        "over splits: paired t": 6 * 50,
        "paired t": 20 * 5,
        "two-way bootstrap": 20 * 5,
        "pooled bootstrap (the paper's)": 20 * 5,
    }
    assert found["over splits: paired t"].passes
    assert found["pooled bootstrap (the paper's)"].rate > 0.3
    assert found["two-way bootstrap"].rate < 0.2
    assert all(rate.standard_error is not None and 0 < rate.standard_error < 0.1 for rate in found.values())


def test_an_analysis_that_is_too_sure_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., Interval] = aa.paired_difference

    def halves_p(*given: Any) -> Interval:
        found = right(*given)
        return Interval(found.estimate, found.low, found.high, found.p_value / 3)

    monkeypatch.setattr(aa, "paired_difference", halves_p)
    study = simulated(tmp_path, training_sd=0.4)
    assert not by_name(rates(study, cases_per_cluster=50, num_resamples=20))["over splits: paired t"].passes


def test_trainings_with_one_seed_would_never_differ_and_do_not_pass(tmp_path: Path) -> None:
    study = StudyFolder.create(config("0-1", 2), tmp_path)
    (tmp_path / "scores").mkdir()
    labels = np.array([0, 1] * 5, np.uint8)
    for seed in (0, 1):
        for arm in study.config.arms:
            finish(study, arm.name, seed, np.random.default_rng(seed).normal(0, 1, (2, 10)).astype(np.float32), labels)
    assert [rate.rate for rate in rates(study, 10, 20)] == [0.0] * 4
    assert not any(rate.passes for rate in rates(study, 10, 20))


def test_what_is_no_finished_aa_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="4 cells are not finished"):
        rates(StudyFolder.create(config("0-1", 2), tmp_path / "unfinished"))
    same = [{"name": "a"}, {"name": "b"}]
    with pytest.raises(ConfigError, match="differ in nothing but their training_seed_offset"):
        rates(StudyFolder.create(config("0-1", 2, arms=same), tmp_path / "same"))


@pytest.mark.long
def test_trained_in_small(tmp_path: Path) -> None:
    """Five splits and four trainings of four sites: too few for the band, enough to see a rate that is far off."""
    small = {"phantoms": {"sites": 4, "cases_per_site": 400}}
    study = StudyFolder.create(config("0-4", 4, **small), tmp_path)
    Grid(study, SystemClock(), lambda _: None).run(jobs=2, budget_hours=None)
    found = by_name(rates(study, num_resamples=200))
    assert 0.0 < found["over splits: paired t"].rate < 0.15
    assert found["paired t"].rate < 0.2
