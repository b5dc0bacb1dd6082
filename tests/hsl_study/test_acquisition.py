"""Acquisition skew: what a machine does to an image, who gets which machine, and what is scored under which."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hsl_cli.config_file import parse_file
from hsl_model.augment import to_unit
from hsl_model.intensity import ranks
from hsl_model.metrics import roc_auc
from hsl_model.optimise import learning_rate
from hsl_study import configs
from hsl_study.acquisition import BUILT_IN, BUILT_IN_SITES, BUILT_IN_UNSEEN, Acquisition, AcquisitionPlan, stored
from hsl_study.cell_process import run
from hsl_study.cells import CellRow, site_data
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.results import Results
from hsl_study.scales import composed
from hsl_study.scenarios import given, scored_on
from hsl_study.scored import pixels_of, scored_images
from hsl_study.statistics import ArmScores, two_way_bootstrap
from hsl_study.tables import auc_table, domain_table

SMOKE = parse_file(configs.path_of("smoke") or Path("smoke"))
assert isinstance(SMOKE, dict)
GREYS = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
FILMS = np.random.default_rng(0).integers(60, 190, (5, 1, 16, 16), dtype=np.uint8)
NAMES = [f"film-{index}" for index in range(5)]


def test_a_curve_and_contrast_by_hand() -> None:
    half = Acquisition(curve=((0, 0), (0.5, 0.25), (1, 1)))
    grey = stored(half, "half", GREYS, ["x"]).ravel()
    assert (grey[0], grey[100], grey[255]) == (0, 50, 255)
    assert grey[204] == round(255 * (0.25 + (0.8 - 0.5) * 1.5)) == 179
    assert (np.diff(grey.astype(int)) >= 0).all(), "an exposure curve never turns"
    flat = stored(Acquisition(contrast=0.5), "flat", GREYS, ["x"]).ravel()
    assert (flat[0], flat[255]) == (64, 191)
    assert np.array_equal(stored(Acquisition(), "plain", GREYS, ["x"]), GREYS)


@pytest.mark.parametrize("name", [*BUILT_IN_SITES[1:], *BUILT_IN_UNSEEN])
def test_by_rank_no_machine_s_curve_or_contrast_is_left(name: str) -> None:
    """But for the levels that 256 grey values join or its ends clip."""
    curve = BUILT_IN[name].model_copy(update={"noise": 0, "blur": 0})
    images = torch.from_numpy(FILMS), torch.from_numpy(stored(curve, name, FILMS, NAMES))
    far, near = (
        (one - other).abs().mean().item()
        for one, other in (map(to_unit, images), (ranks(image).gather(1, image.flatten(1).long()) for image in images))
    )
    assert far > 0.05
    assert near < 0.03


def test_blur_is_a_share_of_the_width_and_stays_within_an_image() -> None:
    point = np.zeros((2, 1, 32, 32), dtype=np.uint8)
    point[0, 0, 16, 16] = 255
    soft = stored(Acquisition(blur=5.0), "soft", point, ["a", "b"]).astype(float)
    assert not soft[1].any(), "no image bleeds into the next"
    spread = soft[0, 0] / soft[0, 0].sum()
    variance = (spread.sum(axis=1) * (np.arange(32) - 16) ** 2).sum()
    assert variance == pytest.approx((0.05 * 32) ** 2, rel=0.1)


def test_noise_belongs_to_image_and_machine_alone() -> None:
    noisy = Acquisition(noise=10)
    whole = stored(noisy, "m", FILMS, NAMES)
    assert np.array_equal(stored(noisy, "m", FILMS[::-1], NAMES[::-1]), whole[::-1]), "not to the order"
    assert np.array_equal(stored(noisy, "m", FILMS[3:4], NAMES[3:4])[0], whole[3]), "nor to its neighbours"
    assert not np.array_equal(stored(noisy, "other", FILMS, NAMES), whole)
    noise = whole.astype(float) - FILMS
    assert noise.std() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2


def test_colour_and_more_images_than_fit_at_once() -> None:
    films = np.tile(FILMS[:1], (1030, 3, 1, 1))
    found = stored(BUILT_IN["hard"], "hard", films, [str(index) for index in range(1030)])
    assert found.shape == films.shape
    assert np.array_equal(found[1025], stored(BUILT_IN["hard"], "hard", films[:1], ["1025"])[0])


@pytest.mark.parametrize(
    "curve", [((0, 0),), ((0, 0.5), (1, 0.2)), ((0, 0), (0, 1)), ((0, 0), (1, 1.2)), ((0.5, 0), (0.2, 1))]
)
def test_a_curve_that_is_none_is_refused(curve: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError, match="rise"):
        Acquisition(curve=curve)


def test_the_built_in_set_is_five_and_two_that_differ() -> None:
    assert len(BUILT_IN_SITES) == 5
    assert len(BUILT_IN_UNSEEN) == 2
    assert {*BUILT_IN_SITES, *BUILT_IN_UNSEEN} == set(BUILT_IN)
    copies = {name: stored(found, name, FILMS, NAMES).tobytes() for name, found in BUILT_IN.items()}
    assert len(set(copies.values())) == 7


def test_a_plan_names_what_there_is() -> None:
    with pytest.raises(ValidationError, match="unknown acquisitions nobody"):
        AcquisitionPlan(of_site={"a": "nobody"}, known=dict(BUILT_IN))
    with pytest.raises(ValidationError, match="belongs to no site"):
        AcquisitionPlan(of_site={"a": "film"}, unseen=("film",), known=dict(BUILT_IN))
    plan = AcquisitionPlan(of_site={"a": "dark", "b": "reference", "c": "dark"}, unseen=("film",), known=dict(BUILT_IN))
    assert plan.seen == ("reference", "dark")


# --- a study ---


def skewed(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**SMOKE, "seeds": [3], "scenarios": [{"kind": "acquisition-skew"}], **changes})


OWN = {"a": {"curve": [[0, 0], [1, 0.6]]}, "b": {"noise": 30.0}, "c": {"blur": 8.0}, "d": {"contrast": 0.4}}
SITES = {"clinic-a": "a", "clinic-b": "b", "clinic-c": "a"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, CellRow]:
    """One cell with acquisitions of the study's own: two sites share one, two are unseen."""
    scenario = {**SMOKE["scenarios"][0], "acquisitions": SITES, "unseen_acquisitions": ["c", "d"]}
    config = skewed(scenarios=[scenario], acquisitions=OWN, run={**SMOKE["run"], "num_rounds": 1})
    folder = StudyFolder.create(config, tmp_path_factory.mktemp("study"))
    row = run(folder, 0, "local", 3)
    folder.finish(row)
    return folder, row


def test_every_site_trains_on_what_its_machine_stores(finished: tuple[StudyFolder, CellRow]) -> None:
    folder, _ = finished
    pool = folder.pool()
    partition = folder.partition(pool, 0, 3)
    sites = site_data(pool, partition)
    for node, name in SITES.items():
        for split in ("training", "validation", "test"):
            where = partition.cases[node][split]
            found = getattr(sites[node], split)
            machine = Acquisition.model_validate(OWN[name])
            names = [pool.cases[at].name for at in where]
            assert np.array_equal(found.images, stored(machine, name, pool.images[list(where)], names))
            assert np.array_equal(found.labels, pool.labels[list(where)])
        assert sites[node].sat is pool.sat, "the anchor task is the same everywhere"


def test_scores_are_by_image_and_machine_and_copies_are_one_group(finished: tuple[StudyFolder, CellRow]) -> None:
    folder, row = finished
    pool = folder.pool()
    partition = folder.partition(pool, 0, 3)
    scored = scored_images(partition)
    images = pixels_of(scored, partition, pool)
    with np.load(folder.scores(row.key)) as found:
        names = list(found["domains"])
        assert names == ["a", "b", "c", "d"]
        assert (found["in_domain"].sum(axis=0) == 1).all()
        assert np.array_equal(found["unseen"], found["in_domain"][2:].any(axis=0))
        num_images = len(set(found["case"]))
        assert len(found["case"]) == 4 * num_images
        for at in (0, num_images, len(found["case"]) - 1):
            name = names[int(found["in_domain"][:, at].argmax())]
            case = int(found["case"][at])
            copy = stored(Acquisition.model_validate(OWN[name]), name, pool.images[[case]], [pool.cases[case].name])
            assert np.array_equal(images[at], copy[0])
        assert np.array_equal(found["group"], pool.group_numbers[found["case"]]), "all copies of an image are in one"
        seen = ~found["unseen"]
        for node, logits, held in zip(found["nodes"], found["logits"], found["held"], strict=True):
            numbers, labels = row.nodes[node], found["label"]
            assert np.array_equal(held, found["in_domain"][names.index(SITES[node])])
            assert numbers.auc == roc_auc(logits[held], labels[held]) == numbers.domain_aucs[SITES[node]]
            assert numbers.all_domain_auc == roc_auc(logits[seen], labels[seen])
            assert numbers.unseen_auc == roc_auc(logits[~seen], labels[~seen])
            assert len({numbers.auc, numbers.all_domain_auc, numbers.unseen_auc}) == 3
        arms = [ArmScores(found["logits"][[at]][:, seen], found["label"][seen], found["group"][seen]) for at in (0, 1)]
        assert two_way_bootstrap(*arms, num_resamples=50).low < 1


def test_own_all_and_unseen_are_columns_of_their_own(finished: tuple[StudyFolder, CellRow]) -> None:
    folder, row = finished
    table = auc_table(Results(folder), "given")
    heads = [column.partition(" (")[0] for column in table.columns[-3:]]
    assert heads == ["mean, own domain", "mean, all domains", "mean, unseen domains"]
    (line,) = [line for line in table.rows if line[0] == "local"]
    means = [np.mean([getattr(n, key) for n in row.nodes.values()]) for key in ("auc", "all_domain_auc", "unseen_auc")]
    assert list(line[-3:]) == [f"{mean:.3f}" for mean in means]
    domains = domain_table(Results(folder), "given")
    assert domains is not None
    assert domains.columns == ("arm", "seeds", "a", "b", "c", "d", "unseen, mean probability")
    assert domains.rows[0][2] == f"{np.mean([node.domain_aucs['a'] for node in row.nodes.values()]):.3f}"  # type: ignore[misc]
    assert domains.rows[0][-1] == f"{row.unseen_ensemble_auc:.3f}"


def test_without_words_of_ones_own_five_equal_sites_have_the_built_in_machines() -> None:
    table = skewed().table(0, {"x": (103, 80), "y": (30, 20)})
    assert [node.counts for node in table.nodes] == [(20, 20)] * 5
    assert table.acquisitions is not None
    assert tuple(table.acquisitions.of_site.values()) == BUILT_IN_SITES
    assert table.acquisitions.unseen == BUILT_IN_UNSEEN
    assert any("site-2 bright" in line for line in table.acquisitions.lines())


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ({"acquisitions": {"a": "nobody", "b": "dark"}}, "unknown acquisitions nobody"),
        ({"acquisitions": {"a": "dark", "b": "soft"}, "unseen_acquisitions": ["dark"]}, "belongs to no site"),
        ({"unseen_acquisitions": ["film"]}, "need acquisitions"),
    ],
)
def test_a_wrong_assignment_is_refused_before_anything_runs(scenario: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        skewed(scenarios=[{"kind": "given", "nodes": {"a": [9, 9], "b": [9, 9]}, **scenario}])


def test_every_node_needs_a_machine() -> None:
    config = skewed(scenarios=[{"kind": "given", "nodes": {"a": [9, 9], "b": [9, 9]}, "acquisitions": {"a": "dark"}}])
    with pytest.raises(ValueError, match="given for a; the nodes are a, b"):
        config.table(0, {})


def test_the_bed_is_the_table_of_the_evidence_study() -> None:
    counts = {"a": (600, 8), "b": (12, 1500), "c": (40, 40), "d": (20, 30), "e": (200, 3)}
    table = scored_on(given(counts), "validation")
    assert [node.splits["training"] for node in table.nodes] == list(counts.values())
    assert [node.splits["validation"] for node in table.nodes] == [(100, 1), (2, 250), (7, 7), (3, 5), (33, 1)]
    assert all(node.splits["test"] == (0, 0) for node in table.nodes)


def test_the_beds_differ_in_arms_seeds_and_scored_part_alone() -> None:
    def study(name: str) -> StudyConfig:
        return StudyConfig.model_validate(composed(parse_file(configs.path_of(f"evidence-{name}") or Path(name))))

    screen, ideas, confirm, heat = study("screen"), study("ideas"), study("confirm"), study("temperature")
    for field in ("task", "data", "sat", "scenarios", "run", "deploy", "mode", "acquisitions", "primary"):
        assert all(getattr(screen, field) == getattr(other, field) for other in (ideas, heat, confirm)), field
    assert (screen.score, confirm.score) == ("validation", "test")
    assert not set(screen.seeds) & set(confirm.seeds)
    assert (screen.score, screen.seeds) == (ideas.score, ideas.seeds) == (heat.score, heat.seeds)
    known = {arm.name: arm for arm in (*ideas.arms, *screen.arms)}
    assert all(known[arm.name] == arm for arm in confirm.arms), "what is confirmed was screened"
    run = screen.run_config(known["swarm"], ("a", "b"), 0, None)
    last = run.num_rounds * run.training.local_epochs - 1
    floor = run.training.learning_rate_floor * run.training.learning_rate
    assert learning_rate(run.training, last) == pytest.approx(floor), "the last epoch is trained at the floor"
    often = screen.run_config(known["swarm-8-steps"], ("a", "b"), 0, None)
    images = [(one.num_rounds, one.training.images_per_epoch) for one in (run, often)]
    assert images == [(8, 48 * 32), (48, 8 * 32)], "the same steps, fused six times as often"
