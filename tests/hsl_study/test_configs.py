"""The studies that come with HeteroSync, at every scale; scenarios fitted to data sets that lack what they ask for."""

from typing import Any

import pytest
from pydantic import ValidationError

from hsl_cli.config_file import parse_file
from hsl_cli.errors import BadInputError
from hsl_cli.study_file import SourceOptions, StudyOptions, load_study
from hsl_model.optimise import learning_rate
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_study import configs, scenarios
from hsl_study.config import ScenarioConfig, StudyConfig
from hsl_study.fitting import LEAST, fit_lines, fitted
from hsl_study.partition import PoolCase, build_partition
from hsl_study.scales import SCALES, composed, named_arms

ALL = [name for name, _ in configs.described()]
NAMES = [name for name in ALL if "scale" in parse_file(configs.path_of(name))]  # the others say everything themselves
FRACATLAS = {"leg": (1878, 212), "hand": (874, 375), "mixed": (288, 106), "hip": (169, 10), "shoulder": (88, 10)}
NODES = ("node-1", "node-2")


def study(name: str, scale: str | None = None) -> StudyConfig:
    return load_study(name, StudyOptions(scale=scale))


def runs(found: StudyConfig) -> dict[str, RunConfig]:
    return {arm.name: found.run_config(arm, NODES, 0, "0" * 64) for arm in found.arms}


@pytest.mark.parametrize("name", NAMES)
def test_every_study_is_valid_at_every_scale(name: str) -> None:
    for scale in SCALES:
        found = study(name, scale)
        assert found.scale == scale
        assert (found.phantoms is not None) == (scale == "smoke")
    assert study(name).scale == "small"


@pytest.mark.parametrize("name", ALL)
def test_every_study_has_the_name_of_its_file_and_says_what_it_is_for(name: str) -> None:
    assert study(name).name == name
    assert len(dict(configs.described())[name]) > 20


def test_a_table_or_figure_and_every_control_has_its_study() -> None:
    published = {"feature-skew", "label-skew", "quantity-skew", "combined", "ablation", "sat-study", "real-world"}
    controls = {"sampler", "weights", "interval", "loss-weight", "normalisation", "steps", "matched", "mixture"}
    assert published | {f"control-{name}" for name in controls} <= set(NAMES)
    ratios = tuple([one.ratio for one in study(name).scenarios] for name in ("label-skew", "quantity-skew"))
    assert ratios == (list(scenarios.LABEL_RATIOS), list(scenarios.QUANTITY_RATIOS))


def test_every_named_arm_is_used_by_a_study() -> None:
    used = {arm.name for name in ALL for arm in study(name).arms}
    assert set(named_arms()) <= used


@pytest.mark.parametrize("name", [name for name in NAMES if name != "control-interval"])
def test_small_is_eight_rounds_that_end_at_the_floor_of_the_learning_rate(name: str) -> None:
    for arm, run in runs(study(name, "small")).items():
        training = run.training
        assert (run.num_rounds, training.local_epochs, training.batch_size) == (8, 1, 32), arm
        assert learning_rate(training, 7) == pytest.approx(training.learning_rate_floor * training.learning_rate)
        assert not run.convergence.enabled
        assert run.network.encoder == "resnet_small"


def test_the_anchors_curve_asks_for_the_anchors_and_ranks_alone_do_not() -> None:
    found = runs(study("control-intensity"))
    assert {arm for arm, run in found.items() if run.sat_digest is not None} == {
        "swarm-anchor-curve", "hsl", "hsl-equalised",
    }  # fmt: skip
    assert found["swarm-anchor-curve"].uses_sat
    assert not found["swarm-anchor-curve"].shows_sat


def test_paper_is_the_published_schedule() -> None:
    found = study("combined", "paper")
    run = runs(found)["hsl"]
    assert (run.num_rounds, run.training.local_epochs, run.training.schedule_period_epochs) == (20, 5, 10)
    assert run.convergence.enabled
    assert (found.task.height, found.task.channels, run.network.encoder, run.network.normalisation) == (
        224, 3, "resnet18", "batch",
    )  # fmt: skip
    assert found.deploy == "best"


@pytest.mark.parametrize("scale", SCALES)
def test_arms_that_fuse_more_or_less_often_take_as_many_steps(scale: str) -> None:
    def steps(run: RunConfig) -> int:
        assert run.training.images_per_epoch is not None
        return run.num_rounds * run.training.local_epochs * run.training.images_per_epoch // run.training.batch_size

    assert len({steps(run) for run in runs(study("control-interval", scale)).values()}) == 1


def test_what_the_file_says_wins_over_the_scale() -> None:
    parsed = parse_file(configs.path_of("combined"))  # type: ignore[arg-type]
    assert isinstance(parsed, dict)
    own: dict[str, Any] = {**parsed, "run": {"num_rounds": 3}, "scenarios": [{"kind": "combined", "fit": False}]}
    found = StudyConfig.model_validate(composed(own, "small"))
    assert runs(found)["hsl"].num_rounds == 3
    assert runs(found)["hsl"].training.batch_size == 32
    assert not found.scenarios[0].fit


@pytest.mark.parametrize(("changes", "scale", "said"), [({"arms": ["nobody"]}, None, "nobody"), ({}, "huge", "huge")])
def test_unknown_arms_and_scales_are_refused(changes: dict[str, Any], scale: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        composed({"arms": ["hsl"], **changes}, scale)


def test_the_command_line_puts_other_images_and_fewer_cells_in(tmp_path: Any) -> None:
    archive = tmp_path / "bones.npz"
    options = StudyOptions(
        scale="small", seeds="3,5", arms=("hsl", "no-sat"), size=28,
        data=SourceOptions(archive, classes=("fractured=abnormal", "intact=normal")),
    )  # fmt: skip
    found = load_study("combined", options)
    assert found.data is not None
    assert (found.data.reader, found.data.path) == ("npz", archive)
    assert found.data.classes == {"fractured": "abnormal", "intact": "normal"}
    assert (found.seeds, [arm.name for arm in found.arms]) == ((3, 5), ["hsl", "no-sat"])
    assert found.contrasts == (("hsl", "no-sat"),)
    assert (found.task.height, found.task.width) == (28, 28)
    for wrong in (StudyOptions(arms=("nobody",)), StudyOptions(scale="huge"), StudyOptions(seeds="a")):
        with pytest.raises(BadInputError):
            load_study("combined", wrong)


# --- fitting ---


def pool(domains: dict[str, tuple[int, int]]) -> list[PoolCase]:
    return [
        PoolCase(
            f"{domain}-{label}-{number}", label, domain, f"{domain}-{label}-{number}", f"{domain}-{label}-{number}"
        )
        for domain, counts in domains.items()
        for label in (0, 1)
        for number in range(counts[label])
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        {"kind": "combined"},
        {"kind": "combined", "regions": {"XR_ELBOW": "leg", "XR_FINGER": "hand", "XR_HUMERUS": "mixed",
                                         "XR_FOREARM": "mixed", "XR_WRIST": "leg", "XR_SHOULDER": "leg"}},
        {"kind": "real-world"},
        {"kind": "feature-skew", "size": 1470},
        {"kind": "label-skew", "ratio": 2, "domain": "XR_SHOULDER"},
        {"kind": "label-skew", "ratio": 100},
        {"kind": "quantity-skew", "ratio": 80},
    ],
)  # fmt: skip
def test_a_fitted_scenario_can_be_built_from_another_data_set(wanted: dict[str, Any]) -> None:
    table = ScenarioConfig.model_validate({**wanted, "fit": True}).build(FRACATLAS)
    for mode in ("patient", "paper"):
        built = build_partition(table, pool(FRACATLAS), mode, 0).built  # type: ignore[arg-type]
        for node in table.nodes:
            assert built[node.node_id] == node.splits
            assert min(count for count in node.counts if count) >= min(LEAST, 7)
            assert 0 not in node.splits["validation"]


def test_fitting_keeps_the_shape_and_takes_all_it_can() -> None:
    whole, found = scenarios.combined(), fitted(scenarios.combined(), FRACATLAS, {})
    asked, given = ({node.node_id: node.counts for node in one.nodes} for one in (whole, found))
    share = given["rare-region"][0] / asked["rare-region"][0]
    assert given["screening-centre"][0] / asked["screening-centre"][0] == pytest.approx(share, rel=0.01)
    assert sum(counts[0] for counts in given.values()) > 0.88 * 3297
    assert (given["rare-region"][1], given["screening-centre"][1]) == (7, LEAST), "the published region has seven"
    assert not any(node.parts for node in found.nodes)
    assert next(fit_lines(found)).startswith("Shrunk to the images there are: screening-centre 3098:31 to ")


def test_what_fitting_could_not_keep_is_told_with_its_factor() -> None:
    """All but the rare class is scaled by 33/1985; it keeps 10 of 39, which is 15.4 times as large a share."""
    found = fitted(scenarios.label_skew(100, None, 3970), {"": (76, 74)}, {})
    assert list(fit_lines(found)) == [
        "Shrunk to the images there are: node-1 1985:1985 to 33:33, node-2 3931:39 to 66:10.",
        "A class keeps 10 images, so these are less rare than published: positives of node-2 15.4 times.",
    ]
    alike = fitted(scenarios.label_skew(2, None, 3970), {"": (76, 74)}, {})
    assert len(list(fit_lines(alike))) == 1
    assert list(fit_lines(scenarios.label_skew(100, None, 3970))) == []


def test_what_is_there_in_full_is_left_as_it_is() -> None:
    rich = {domain: (2 * negative, 2 * positive) for domain, (negative, positive) in scenarios.MURA_COUNTS.items()}
    assert fitted(scenarios.combined(), rich, {}) == scenarios.combined()


def test_a_data_set_that_is_too_small_is_refused_with_its_numbers() -> None:
    with pytest.raises(ValueError, match="too small"):
        fitted(scenarios.combined(), {"": (10, 10)}, {})
    with pytest.raises(ValueError, match=r"two domains .* leg 1878:212"):
        ScenarioConfig(kind="feature-skew", fit=True).build({"leg": (1878, 212)})
    with pytest.raises(ValidationError):
        ScenarioConfig.model_validate({"kind": "combined", "regions": {"XR_ELBOW": 3}})
