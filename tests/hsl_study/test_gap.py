"""The share of the way between two references, by hand and in the table."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hsl_study.cells import CellRow
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.gap import gap_share
from hsl_study.results import Results
from hsl_study.tables import auc_table
from tests.hsl_study.test_study import SMOKE

LOWER, UPPER = {0: 0.70, 1: 0.60, 2: 0.80}, {0: 0.80, 1: 0.80, 2: 0.75}


def test_a_fraction_of_each_seed_and_of_the_means_by_hand() -> None:
    found = gap_share({0: 0.75, 1: 0.65, 2: 0.90, 9: 0.5}, LOWER, UPPER)
    assert found.fractions == {0: pytest.approx(0.5), 1: pytest.approx(0.25), 2: None}
    assert found.of_means == pytest.approx((0.05 + 0.05 + 0.10) / (0.10 + 0.20 - 0.05))
    assert found.text() == "0.38 ± 0.18 (of the means 0.80; 1 of 3 seeds undefined)"


def test_references_stand_at_nothing_and_at_one_and_an_arm_may_lie_outside() -> None:
    assert set(gap_share(LOWER, LOWER, UPPER).fractions.values()) == {0.0, None}
    assert set(gap_share(UPPER, LOWER, UPPER).fractions.values()) == {1.0, None}
    assert gap_share({0: 0.6}, LOWER, UPPER).fractions[0] == pytest.approx(-1.0)
    assert gap_share({0: 0.9}, LOWER, UPPER).text() == "2.00 (of the means 2.00)"


def test_what_is_undefined_says_why() -> None:
    assert gap_share({5: 0.7}, LOWER, UPPER).text() == "undefined: no seed has the arm and both references"
    assert (
        gap_share({2: 0.7}, LOWER, UPPER).text().startswith("undefined: the upper reference is above the lower in no")
    )
    assert gap_share({2: 0.7}, {2: 0.7}, {2: 0.7}).of_means is None


def row(arm: str, seed: int, auc: float) -> CellRow:
    node = {"num_positive": 5, "num_negative": 5, "auc": auc, "all_domain_auc": auc}
    others = dict.fromkeys(("auprc", "accuracy", "recall", "precision"))
    digests = dict.fromkeys(("config_sha256", "final_digest", "scores_sha256"), "0" * 64)
    return CellRow(
        scenario="given", arm=arm, seed=seed, num_rounds=1, deployed_round=1, mean_validation_auc=None,
        nodes={"a": {**node, **others}}, versions={}, num_threads=1, seconds=1.0, **digests,
    )  # fmt: skip


def study(**changes: Any) -> StudyConfig:
    arms = [{"name": name} for name in ("swarm", "central", "hsl", "late")]
    return StudyConfig.model_validate({**SMOKE, "arms": arms, "gap": ("swarm", "central"), **changes})


def test_the_column_is_there_for_every_arm_where_the_study_names_its_references(tmp_path: Path) -> None:
    folder = StudyFolder.create(study(), tmp_path)
    for arm, aucs in {"swarm": (0.7, 0.6), "central": (0.8, 0.8), "hsl": (0.75, 0.65)}.items():
        for seed, auc in enumerate(aucs):
            folder.cell(("given", arm, seed)).mkdir(parents=True)
            folder.finish(row(arm, seed, auc))
    table = auc_table(Results(folder), "given")
    assert table.columns[-1] == "gap from swarm to central"
    cells = {line[0]: line[-1] for line in table.rows}
    assert cells["hsl"] == "0.38 ± 0.18 (of the means 0.33)"
    assert cells["central"] == "1.00 ± 0.00 (of the means 1.00)"
    assert cells["late"] == "not run yet"
    assert {len(line) for line in table.rows} == {len(table.columns)}


@pytest.mark.parametrize("gap", [("swarm", "nobody"), ("swarm", "swarm")])
def test_references_are_two_arms_of_the_study(gap: tuple[str, str]) -> None:
    with pytest.raises(ValidationError, match="two different arms"):
        study(gap=gap)
