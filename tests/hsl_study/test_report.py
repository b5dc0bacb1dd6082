"""Tables, contrasts, figures and the page, on results that were made up, so that every number can be computed anew."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from hsl_model.metrics import roc_auc
from hsl_study import figures, tables
from hsl_study.collapsed import collapsed_table
from hsl_study.contrasts import adjusted_p, bootstrap_table, contrast_table, paired, pooled_table
from hsl_study.curves import FALSE_POSITIVE_RATES, convergence_band, roc_band
from hsl_study.deviations import deviations
from hsl_study.folder import Key
from hsl_study.report import html_report
from hsl_study.results import Results
from hsl_study.statistics import Panel
from tests.hsl_study.made_results import better_by, config, fill

UNEQUAL = better_by({"hsl": 3.0, "swarm": 1.0, "local": 1.0})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return fill(tmp_path_factory.mktemp("made"), config(), UNEQUAL, skip={("given", "local", 2)})


def test_each_metric_is_a_column_and_stands_beside_its_positive_images(made: Results) -> None:
    table = tables.node_table(made, "given")
    shown = [metric for metric in tables.METRICS if metric.name != "unseen_auc"]
    assert table.columns == ("node", "n positive", "arm", *(metric.title for metric in shown))
    first = table.rows[0]
    assert first[:3] == ("clinic-a", "12 of 24", "hsl")
    for cell, metric in zip(first[3:], shown, strict=True):
        values = [metric.of(row.nodes["clinic-a"]) for row in made.of("given") if row.arm == "hsl"]
        assert cell == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"  # type: ignore[arg-type]
    own, everywhere = (
        tables.metrics_table(made, "given").columns.index(f"AUC, {which}") for which in ("own domain", "all domains")
    )
    assert tables.metrics_table(made, "given").rows[0][own] != tables.metrics_table(made, "given").rows[0][everywhere]


def test_a_column_of_an_arm_may_look_at_other_arms(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def lead(row: tables.CellRow, rows: tables.Rows) -> float | None:
        (swarm,) = [other for other in rows if other.arm == "swarm" and other.seed == row.seed]
        return (row.nodes["clinic-a"].auc or 0) - (swarm.nodes["clinic-a"].auc or 0)

    monkeypatch.setattr(tables, "ARM_COLUMNS", (*tables.ARM_COLUMNS, tables.Column("lead on swarm", lead)))
    table = tables.metrics_table(made, "given")
    assert table.columns[-1] == "lead on swarm"
    assert {row[0]: row[-1] for row in table.rows}["swarm"] == "0.000 ± 0.000"


def test_domains_that_no_node_has_stand_in_columns_of_their_own(made: Results, tmp_path: Path) -> None:
    results = fill(tmp_path, config(primary="unseen_auc"), UNEQUAL, num_unseen=10)
    table = tables.auc_table(results, "given")
    assert table.columns[-2:] == ("mean, all domains (24 of 48 positive)", "mean, unseen domains (5 of 10 positive)")
    assert tables.auc_table(made, "given").columns[-1] == "mean, all domains (24 of 48 positive)"
    assert "AUC, unseen domains" in tables.node_table(results, "given").columns
    domains = tables.domain_table(results, "given")
    assert domains is not None
    assert domains.columns == ("arm", "seeds", "unseen-population", "unseen, mean probability")
    assert domains.rows[0][2] == table.rows[0][-1]
    assert tables.domain_table(made, "given") is None
    assert [row[1] for row in bootstrap_table(results, "given").rows] == [
        "own-domain AUC", "all-domain AUC", "AUC of unseen domains",
    ]  # fmt: skip
    found = paired(results, "given", ("hsl", "swarm"), "unseen_auc")
    assert not isinstance(found, str)
    assert contrast_table(results, "given").rows[0][1] == f"{found.interval.estimate:+.3f}"
    assert bootstrap_table(results, "given").rows[2][2] == f"{found.interval.estimate:+.3f}"


def test_cells_without_a_result_are_listed_with_their_seeds(made: Results) -> None:
    assert tables.missing_table(made).rows == (("given", "local", "2", "not run yet"),)
    assert {row[0]: row[1] for row in tables.auc_table(made, "given").rows} == {"hsl": "4", "swarm": "4", "local": "3"}


def test_a_training_that_ended_with_one_answer_for_all_images_is_told(made: Results, tmp_path: Path) -> None:
    def logits(key: Key, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        dead = key[1:] in {("hsl", 1), ("hsl", 3)}
        return np.full(labels.shape, 0.02) if dead else labels + random.normal(0, 1, labels.shape)

    found = fill(tmp_path, config(), logits)
    assert collapsed_table(found).rows == (("given", "hsl", "1, 3", "2"),)
    assert collapsed_table(found).title in html_report(found)
    assert collapsed_table(made).rows == ()


def test_the_primary_analysis_says_what_it_could_have_found(made: Results) -> None:
    found = paired(made, "given", ("hsl", "swarm"), "auc")
    assert not isinstance(found, str)
    first, second = (tables.by_seed(made.of("given"), arm, "auc") for arm in ("hsl", "swarm"))
    expected = stats.ttest_rel([first[seed] for seed in range(4)], [second[seed] for seed in range(4)])
    assert found.interval.p_value == pytest.approx(expected.pvalue)
    quantiles = stats.t.ppf(0.975, 3) + stats.t.ppf(0.8, 3)
    assert found.detectable == pytest.approx(quantiles * found.sd / 2)
    declared, exploratory = contrast_table(made, "given").rows
    assert declared[0] == "hsl - swarm"
    assert declared[-2] == f"{found.detectable:.3f}"
    assert declared[-1] == f"declared, Holm p {expected.pvalue:.3f}"
    assert (exploratory[0], exploratory[4], exploratory[-1]) == ("hsl - local", "3", "exploratory")


def test_holm_counts_every_declared_contrast_of_every_scenario(tmp_path: Path) -> None:
    ratios = [{"kind": "label-skew", "ratio": ratio, "size": 100} for ratio in (2, 10)]
    both = fill(tmp_path, config(scenarios=ratios, contrasts=[("hsl", "swarm"), ("hsl", "local")]), UNEQUAL)
    adjusted = adjusted_p(both)
    assert len(adjusted) == 4
    smallest = min(adjusted, key=lambda key: adjusted[key])
    alone = paired(both, smallest[0], smallest[1], "auc")
    assert not isinstance(alone, str)
    assert adjusted[smallest] == pytest.approx(4 * alone.interval.p_value)
    assert tables.gradients(both) == ["label-skew"]
    table = tables.gradient_table(both, "label-skew")
    assert table.columns == ("node", "arm", "2:1", "10:1")
    assert [row[1] for row in table.rows if row[0] == "clinic-b"] == ["hsl", "swarm", "local", "n positive"]
    drawn = figures.lines(both, "label-skew")
    assert drawn is not None
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["2:1", "10:1"]


def test_the_bootstraps_are_made_of_the_score_files(made: Results) -> None:
    own, everywhere = bootstrap_table(made, "given").rows
    assert own[0] == "hsl - swarm"
    difference = paired(made, "given", ("hsl", "swarm"), "auc")
    assert not isinstance(difference, str)
    assert own[2] == f"{difference.interval.estimate:+.3f}"
    assert (everywhere[1], everywhere[5]) == ("all-domain AUC", "4")
    pooled = pooled_table(made, "given")
    assert "ignores the noise of training" in pooled.title
    logits, labels = zip(
        *[
            (one.panel("clinic-a", "own").logits, one.panel("clinic-a", "own").labels)
            for one in made.scores("given", "hsl").values()
        ],
        strict=True,
    )
    others = [one.panel("clinic-a", "own").logits for one in made.scores("given", "swarm").values()]
    label = np.concatenate(labels)
    expected = (roc_auc(np.concatenate(logits), label) or 0) - (roc_auc(np.concatenate(others), label) or 0)
    assert pooled.rows[0][1:3] == ("clinic-a", f"{expected:+.3f}")


def test_scores_that_are_not_those_of_the_row_are_left_out_and_seen(tmp_path: Path) -> None:
    results = fill(tmp_path, config(), UNEQUAL)
    path = results.folder.scores(("given", "swarm", 1))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    results.folder.scores(("given", "swarm", 2)).unlink()
    assert sorted(results.scores("given", "swarm")) == [0, 3]
    assert bootstrap_table(results, "given").rows[0][5] == "2"


def test_a_roc_curve_has_its_steps_where_the_scores_have() -> None:
    panel = Panel(np.array([3, 2, 2, 1, 0], np.float32), np.array([1, 0, 1, 1, 0], np.uint8), np.arange(5))
    band = roc_band([panel])
    assert band is not None
    at = dict(zip(FALSE_POSITIVE_RATES.round(2), band.mean, strict=True))
    assert at[0.0] == pytest.approx(1 / 3)
    assert at[0.25] == pytest.approx(1 / 2), "half-way up the slope of the tied pair"
    assert at[0.5] == pytest.approx(1.0)
    assert roc_band([Panel(np.zeros(2, np.float32), np.zeros(2, np.uint8), np.arange(2))]) is None


def test_the_area_under_the_mean_curve_is_the_mean_auc(made: Results) -> None:
    panels = [one.panel("clinic-a", "own") for one in made.scores("given", "swarm").values()]
    band = roc_band(panels)
    assert band is not None
    mean = np.mean([roc_auc(panel.logits, panel.labels) for panel in panels])  # type: ignore[arg-type]
    assert np.trapezoid(band.mean, band.at) == pytest.approx(mean, abs=0.01)
    assert (band.low <= band.mean + 1e-12).all()
    assert (band.mean <= band.high + 1e-12).all()


def test_rounds_without_a_validation_auc_are_not_drawn(made: Results) -> None:
    band = convergence_band([row for row in made.of("given") if row.arm == "hsl"])
    assert band is not None
    assert band.at.tolist() == [1, 2, 3]
    assert band.mean[1] == pytest.approx(0.665)
    assert convergence_band([]) is None


def test_every_figure_shows_every_arm_in_one_colour(made: Results) -> None:
    for caption, draw in figures.SCENARIO_FIGURES:
        drawn = draw(made, "given")
        assert drawn is not None, caption
        legend = {text.get_text() for text in drawn.legends[0].get_texts()}
        assert legend == ({"intact", "fractured"} if draw is figures.violins else {"hsl", "swarm", "local"})
    nothing = Results(made.folder)
    nothing.__dict__["rows"] = {}
    assert [draw(nothing, "given") for _, draw in figures.SCENARIO_FIGURES] == [None] * 4


def test_the_page_stands_alone_and_says_all(made: Results) -> None:
    page = html_report(made)
    assert "src=" not in page.replace('src="data:image/png;base64,', "")
    assert "href" not in page
    assert page.count("<img") == 4
    for text in ("11 of 12 cells", "python 3", "Deviations from the paper", "&quot;num_rounds&quot;: 3"):
        assert text in page, text
    assert len(re.findall("<caption>", page)) == 8


def test_deviations_follow_the_configuration() -> None:
    patient, paper = (
        list(deviations(config(mode=mode, deviations=["One of its own."]))) for mode in ("patient", "paper")
    )
    assert set(patient) - set(paper) == {
        "Patients and look-alike images stay whole when data are split; the published splits are by image."
    }
    assert paper[-1] == "One of its own."
    narrow = config(run={"network": {"encoder": "resnet_small"}})
    assert "The encoder is narrower than ResNet-18." in set(deviations(narrow)) - set(paper)
