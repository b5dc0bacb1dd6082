"""Official parts and unseen populations: nothing that is scored was trained on, and what is left out is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hsl_data.decode import pixel_digest
from hsl_data.split import SPLITS
from hsl_study.cells import site_data
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.held_out import UnseenPopulation, official_parts, training_and_validation
from hsl_study.partition import Mode, PoolCase, ScenarioInfeasibleError, build_partition
from hsl_study.scenarios import Scenario, given, given_by_domain, label_skew, real_world, scored_on
from hsl_study.scored import UNSEEN_POPULATION, scored_images

NODES = {"a": (30, 4), "b": (6, 40), "c": (10, 10)}


def published(num: int = 80) -> list[PoolCase]:
    """`num` images of each class in each part; groups of one, and some of two in the training part."""
    cases = []
    for part, label, index in np.ndindex(3, 2, num):
        name = f"{part}-{label}-{index}"
        group = f"{part}-{label}-{index // 2}-pair" if part == 0 and index < 8 else name
        cases.append(PoolCase(name, label, "", group, name, str(part)))
    return cases


def names(pool: list[PoolCase], positions: tuple[int, ...]) -> set[str]:
    return {pool[at].name for at in positions}


def test_a_torn_group_stays_in_its_last_part_and_the_rest_is_counted() -> None:
    parts = ["train", "val", "test", "0", "1", "2", "train", None]
    groups = ["p", "p", "q", "p", "r", "s", "s", "t"]
    kept, num_torn = official_parts(parts, groups, "test")
    assert kept == {1: "validation", 2: "test", 4: "validation", 5: "test"}
    assert num_torn == 3


def test_a_data_set_without_such_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="no official part for validation"):
        official_parts(["train", "test", None], ["a", "b", "c"], "validation")
    with pytest.raises(ValueError, match="no official part for test, training"):
        official_parts([None], ["a"], "test")
    scenario = scored_on(given(NODES), "test")
    with pytest.raises(ScenarioInfeasibleError, match="no official part"):
        build_partition(scenario, [PoolCase("a", 0, "", "a", "a")], "patient", seed=0)


def test_a_sixth_validates_and_no_class_goes_without() -> None:
    assert training_and_validation((600, 8)) == {"training": (600, 8), "validation": (100, 1), "test": (0, 0)}
    assert training_and_validation((200, 3))["validation"] == (33, 1)
    assert training_and_validation((0, 9))["validation"] == (0, 2)


@pytest.mark.parametrize("mode", ["patient", "paper"])
@pytest.mark.parametrize("scored", ["validation", "test"])
def test_nodes_draw_from_the_training_part_and_all_are_scored_on_the_same_other(mode: Mode, scored: Any) -> None:
    pool = published()
    partition = build_partition(scored_on(given(NODES), scored), pool, mode, seed=5)
    tested = {case.name for case in pool if case.part == {"validation": "1", "test": "2"}[scored]}
    groups: dict[str, set[str]] = {"training": set(), "validation": set()}
    held: list[int] = []
    for node, splits in partition.cases.items():
        assert names(pool, splits["test"]) == tested
        for split in ("training", "validation"):
            assert {pool[at].part for at in splits[split]} == {"0"}
            groups[split] |= {pool[at].group for at in splits[split]}
            held += splits[split]
        assert partition.built[node] == training_and_validation(NODES[node])
    assert not groups["training"] & groups["validation"]
    assert len(held) == len(set(held)), "an image lies at one node"
    assert f"scored on the official {scored} part, 160 images" in "\n".join(partition.lines())


def test_seeds_draw_anew_and_the_scored_part_stays() -> None:
    pool = published()
    one, other = (build_partition(scored_on(given(NODES), "test"), pool, "patient", seed) for seed in (0, 1))
    assert one.cases["a"]["test"] == other.cases["a"]["test"]
    assert one.cases["a"]["training"] != other.cases["a"]["training"]


def test_what_the_training_part_cannot_supply_is_refused_with_the_numbers() -> None:
    with pytest.raises(ScenarioInfeasibleError, match=r"a would get, of class 1, \d+ of 90 in training"):
        build_partition(scored_on(given({"a": (10, 90)}), "test"), published(), "patient", seed=0)


def test_domains_and_shared_images_go_with_official_parts() -> None:
    pool = [*published()]
    pool = [PoolCase(c.name, c.label, "hand" if i % 2 else "hip", c.group, c.name, c.part) for i, c in enumerate(pool)]
    table = scored_on(given_by_domain({"a": {"hand": (12, 6)}, "b": {"hip": (6, 12), "hand": (3, 3)}}), "test")
    partition = build_partition(table, pool, "patient", seed=0)
    assert {pool[at].domain for split in SPLITS[:2] for at in partition.cases["a"][split]} == {"hand"}
    assert partition.built["b"]["training"] == (9, 15)
    assert partition.built["b"]["validation"] == (2, 3)
    shared = build_partition(scored_on(label_skew(4, size=40), "validation"), pool, "patient", seed=0)
    assert shared.built["node-2"]["training"] == (32, 8)


# --- the real way in: copies and look-alikes across a MedMNIST archive's parts ---


def medmnist(path: Path) -> Path:
    """Smooth pictures; the training part repeats one of itself, one of val and nearly one of test."""
    random = np.random.default_rng(1)
    small = random.integers(0, 256, (140, 4, 4), dtype=np.uint8)
    films = np.stack([np.kron(film, np.ones((4, 4), dtype=np.uint8)) for film in small])
    labels = (np.arange(140) % 2).astype(np.uint8)[:, None]
    films[1], labels[1] = films[0], labels[0]
    films[2], labels[2] = films[100], labels[100]
    films[3], labels[3] = np.clip(films[120].astype(int) + 3, 0, 255), labels[120]
    cuts = {"train": slice(0, 100), "val": slice(100, 120), "test": slice(120, 140)}
    arrays = {f"{part}_images": films[cut] for part, cut in cuts.items()}
    np.savez(path, **arrays, **{f"{part}_labels": labels[cut] for part, cut in cuts.items()})
    return path


TASK = {"task_id": "t", "positive_class": "p", "negative_class": "n", "modality": "film", "height": 16, "width": 16}


def study(tmp_path: Path, **changes: Any) -> StudyFolder:
    config = {
        "name": "parts",
        "seeds": [0],
        "score": "test",
        "task": TASK,
        "data": {"path": medmnist(tmp_path / "films.npz"), "classes": {"0": "n", "1": "p"}},
        "scenarios": [{"kind": "given", "nodes": {"a": [20, 4], "b": [4, 20]}}],
        "arms": [{"name": "swarm", "run": {"method": {"name": "swarm"}}}],
        **changes,
    }
    return StudyFolder.create(StudyConfig.model_validate(config), tmp_path / "study")


def test_no_copy_or_look_alike_of_a_scored_image_is_trained_on(tmp_path: Path) -> None:
    folder = study(tmp_path)
    pool = folder.pool()
    assert pool.report.not_used["duplicate"] == 2, "within train, and across train and val"
    assert "2 copies of another image" in pool.lines()[0]
    partition = folder.partition(pool, 0, 0)
    assert partition.num_torn == 1
    assert "1 images are left out" in "\n".join(partition.lines())
    sites = site_data(pool, partition)
    trained = {pixel_digest(image) for site in sites.values() for image in site.training.images}
    trained |= {pixel_digest(image) for site in sites.values() for image in site.validation.images}
    with np.load(tmp_path / "films.npz") as films:
        tested = {pixel_digest(image[None]) for image in films["test_images"]}
        assert {pixel_digest(image) for image in sites["a"].test.images} == tested, "the scored part is whole"
        assert pixel_digest(films["train_images"][3][None]) not in trained, "the look-alike"
    assert len(trained) == 20 + 4 + 20 + 4 + 2 * (3 + 1)
    assert not trained & tested


def test_the_default_size_of_acquisition_skew_leaves_room_for_validation(tmp_path: Path) -> None:
    folder = study(tmp_path, scenarios=[{"kind": "acquisition-skew"}])
    partition = folder.partition(folder.pool(), 0, 0)
    assert {table["training"] for table in partition.built.values()} == {(8, 8)}
    assert len(scored_images(partition).case) == 7 * 20


# --- unseen populations ---


def patients() -> list[PoolCase]:
    return [
        PoolCase(f"{domain}-{i}", i // 3 % 2, domain, f"{domain}-{i // 3}", f"{domain}-{i}")
        for domain in ("hand", "hip")
        for i in range(300)
    ]


def with_unseen(scenario: Scenario, **unseen: Any) -> Scenario:
    return scenario.model_copy(update={"unseen": UnseenPopulation(**unseen)})


@pytest.mark.parametrize("mode", ["patient", "paper"])
def test_an_unseen_population_is_the_same_for_every_seed_and_no_node_has_it(mode: Mode) -> None:
    pool = patients()
    scenario = with_unseen(real_world(300), counts=(9, 70))
    partitions = [build_partition(scenario, pool, mode, seed) for seed in (0, 1)]
    assert partitions[0].unseen == partitions[1].unseen
    labels = [pool[at].label for at in partitions[0].unseen]
    assert (labels.count(0), labels.count(1)) == (9, 69), "of patients with three images each"
    for partition in partitions:
        held = {at for splits in partition.cases.values() for found in splits.values() for at in found}
        assert not held & set(partition.unseen)
        assert not {pool[at].group for at in held} & {pool[at].group for at in partition.unseen}
        scored = scored_images(partition)
        assert scored.unseen == (UNSEEN_POPULATION,)
        assert list(scored.case[scored.is_unseen]) == list(partition.unseen)
        assert not any(scored.own(node)[scored.is_unseen].any() for node in partition.cases)
    assert "images of a population that no node has" in partitions[0].lines()[-1]


def test_a_domain_can_be_the_unseen_population(tmp_path: Path) -> None:
    partition = build_partition(with_unseen(given({"a": (60, 60)}), domain="hip"), patients(), "patient", seed=0)
    assert {patients()[at].domain for at in partition.unseen} == {"hip"}
    assert len(partition.unseen) == 300
    config = study(tmp_path, score=None, scenarios=[{"kind": "feature-skew", "unseen": {"domain": "hip"}}]).config
    assert [node.node_id for node in config.table(0, {"hand": (9, 9), "hip": (9, 9)}).nodes] == ["hand"]


def test_an_unseen_population_that_is_too_small_or_out_of_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioInfeasibleError, match=r"needs 400:9 images and domain hip gives 150:9"):
        build_partition(with_unseen(given({"a": (9, 9)}), domain="hip", counts=(400, 9)), patients(), "patient", seed=0)
    with pytest.raises(ValidationError, match="needs counts, a domain"):
        UnseenPopulation()
    both = study(tmp_path, scenarios=[{"kind": "given", "nodes": {"a": [9, 9]}, "unseen": {"counts": [5, 5]}}])
    with pytest.raises(ScenarioInfeasibleError, match="without official parts"):
        both.partition(both.pool(), 0, 0)
