"""What an arm does to the anchor task, and that nothing else of a study's arms differs by it."""

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hsl_cli.config_file import parse_file
from hsl_data.sat import sat_digest, write_sat
from hsl_model import batches
from hsl_model.batches import PairLoader
from hsl_model.data import ImageSet
from hsl_model.engine import RoundSpec, initial_tensors
from hsl_model.network import build_network
from hsl_model.protocol.config import RunConfig
from hsl_study import cell_process, configs
from hsl_study.arm_data import arm_pool, noise_images, permuted_labels
from hsl_study.arm_sat import ArmSat
from hsl_study.cells import site_data
from hsl_study.config import StudyConfig
from hsl_study.folder import StudyFolder
from hsl_study.partition import Partition
from hsl_study.pool import Pool
from tests.hsl_model.engine_helpers import image_set

ANCHORS = parse_file(configs.path_of("anchors-smoke") or Path("anchors-smoke"))
assert isinstance(ANCHORS, dict)
SMOKE = parse_file(configs.path_of("smoke") or Path("smoke"))
assert isinstance(SMOKE, dict)


def styled(**options: Any) -> dict[str, Any]:
    return {"method": {"name": "styled", "options": options}}


MORE = [
    {"name": "fedavg", "run": {"method": {"name": "fedavg"}}},
    {"name": "fedprox", "run": {"method": {"name": "fedprox"}}},
    {"name": "fedbn", "run": {"method": {"name": "fedbn"}}},
    {"name": "personalised", "run": {"method": {"name": "personalised"}}},
    {"name": "personalised-mmoe", "run": {"method": {"name": "personalised"}, "network": {"architecture": "mmoe"}}},
    {"name": "no-al-trunk", "run": {"method": {"name": "swarm"}, "network": {"architecture": "trunk"}}},
    {"name": "hsl-photometric", "run": {"training": {"photometric": 1.0}}},
    {"name": "styled-anchors", "run": styled(consist="anchors", restyle_own=False)},
    {"name": "styled-anchors-restyled", "run": styled(consist="anchors")},
    {"name": "styled-own-restyled", "run": styled(consist="own")},
    {"name": "styled-noise", "run": styled(consist="anchors"), "sat": {"images": "noise"}},
    {"name": "styled-draw-per-node", "run": styled(consist="anchors"), "sat": {"draws": 3}},
]
"""Arms of other sections of a study."""
STYLED = [arm["name"] for arm in MORE if arm["name"].startswith("styled")]


def all_arms() -> list[dict[str, Any]]:
    known = {arm["name"]: arm for arm in (*ANCHORS["arms"], *SMOKE["arms"], *MORE)}
    return list(known.values())


def study(**changes: Any) -> StudyConfig:
    return StudyConfig.model_validate({**ANCHORS, "arms": all_arms(), **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return StudyFolder.create(study(), tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def pool(folder: StudyFolder) -> Pool:
    return folder.pool()


@pytest.fixture(scope="module")
def partition(folder: StudyFolder, pool: Pool) -> Partition:
    return folder.partition(pool, 0, 0)


NODES = ("clinic-a", "clinic-b", "clinic-c")


def run_of(folder: StudyFolder, pool: Pool, arm_name: str) -> tuple[RunConfig, Pool]:
    (arm,) = [arm for arm in folder.config.arms if arm.name == arm_name]
    own = arm_pool(arm.sat, pool, NODES, 0)
    return folder.config.run_config(arm, NODES, 0, own.sat_digest), own


def test_in_every_arm_of_a_seed_the_primary_batches_and_augmentations_are_equal(
    folder: StudyFolder, pool: Pool, partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rotated and flipped primary images, and their labels, of each node, round and step; before tones are changed."""
    turned: dict[str, list[bytes]] = defaultdict(list)
    augment = batches.augment

    def remember(images: torch.Tensor, *key: str | int) -> torch.Tensor:
        made = augment(images, *key)
        if key[-1] == "augment primary":
            turned[arm.name].append(repr(key).encode() + made.numpy().tobytes())
        return made

    monkeypatch.setattr(batches, "augment", remember)
    for arm in folder.config.arms:
        run, own = run_of(folder, pool, arm.name)
        sites = site_data(own, partition)
        for node in NODES:
            for round_number in (1, 2):
                loader = PairLoader(RoundSpec("run", node, round_number, run), sites[node], "cpu")
                for step in range(loader.steps_per_epoch):
                    turned[arm.name].append(loader.batch(0, step).labels[:8].numpy().tobytes())
    assert len(turned["swarm"]) == 3 * 2 * 3 * 2  # nodes, rounds, steps, images and labels
    assert {name for name, seen in turned.items() if seen != turned["swarm"]} == set()


def test_in_every_arm_of_a_seed_the_initial_primary_encoder_is_equal(folder: StudyFolder, pool: Pool) -> None:
    """Before what `pretrain_rounds` makes of it; where normalisation differs, in the tensors that all arms have."""
    starts = {arm.name: initial_tensors(run_of(folder, pool, arm.name)[0]) for arm in folder.config.arms}
    backbone = {name for name in starts["swarm"] if name.startswith("primary_encoder.backbone.")}
    common = backbone.intersection(*starts.values())
    assert len(common) == len(
        [name for name in backbone if "conv" in name or "widen" in name or "downsample.0" in name]
    )
    for arm, tensors in starts.items():
        assert all(np.array_equal(tensors[name], starts["swarm"][name]) for name in common), arm
    groups = {arm.name: starts[arm.name].keys() >= backbone for arm in folder.config.arms}
    assert [name for name, has_all in groups.items() if not has_all] == ["hsl-shared"]


def test_sat_images_leave_the_statistics_of_a_scored_encoder_alone(
    folder: StudyFolder, pool: Pool, partition: Partition
) -> None:
    """Each arm's own step on a batch, beside the same step with another SAT, under batch norm wherever it may be."""
    other = image_set(24, 5)
    checked = set()
    for arm in folder.config.arms:
        run, own = run_of(folder, pool, arm.name)
        sees_sat = run.training.added_images == "sat" or run.method.views_of is not None
        if not sees_sat and run.architecture != "relative":
            run = run.model_copy(update={"network": run.network.model_copy(update={"normalisation": "batch"})})
        after, start = [], {name: torch.tensor(value) for name, value in initial_tensors(run).items()}
        own_data = site_data(own, partition)["clinic-a"]
        for sat in (own.sat_at("clinic-a"), other):
            batch = PairLoader(RoundSpec("run", "clinic-a", 1, run), replace(own_data, sat=sat), "cpu").batch(0, 0)
            network = build_network(run.network, run.architecture, 1, run.training.num_anchors)
            network.load_state_dict(start)
            network.train()(batch.images, batch.sat_images)
            scored = {name: value for name, value in network.named_buffers() if name.startswith("primary_encoder.")}
            after.append({name: value for name, value in scored.items() if ".sat." not in name})
        assert all(torch.equal(after[0][name], after[1][name]) for name in after[0]), arm.name
        if after[0]:
            checked.add(arm.name)
    without = {arm.name for arm in folder.config.arms} - checked
    relative = {"swarm-relative", "swarm-relative-noise", "swarm-relative-per-node"}
    assert without == {"swarm-mixed", *relative, *STYLED}, "they have no running statistics"


@cache
def lesions() -> ImageSet:
    return image_set(40, 3, positive_share=0.25)


def test_permuted_labels_keep_images_and_counts_and_are_the_same_wherever_they_are_made() -> None:
    sat = lesions()
    first, again, other = permuted_labels(sat, 1), permuted_labels(sat, 1), permuted_labels(sat, 2)
    assert np.array_equal(first.images, sat.images)
    assert first.labels.sum() == sat.labels.sum()
    assert not np.array_equal(first.labels, sat.labels)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.labels, other.labels)


def test_noise_has_shape_mean_and_spread_of_the_images_and_nothing_of_their_classes() -> None:
    sat = lesions()
    noise = noise_images(sat, 1)
    assert noise.images.shape == sat.images.shape
    assert noise.images.dtype == np.uint8
    assert np.array_equal(noise.labels, sat.labels)
    assert noise.images.mean() == pytest.approx(sat.images.mean(), abs=2)
    assert noise.images.std() == pytest.approx(sat.images.std(), abs=2)
    bright = [images.mean(axis=(1, 2, 3)) for images in (sat.images, noise.images)]
    gaps = [abs(means[sat.labels == 1].mean() - means[sat.labels == 0].mean()) for means in bright]
    assert gaps[0] > 15
    assert gaps[1] < 3
    assert np.array_equal(noise.images, noise_images(sat, 1).images)
    assert not np.array_equal(noise.images, noise_images(sat, 2).images)


def test_noise_of_grey_films_in_three_channels_is_grey() -> None:
    sat = lesions()
    colour = ImageSet(np.repeat(sat.images, 3, axis=1), sat.labels)
    noise = noise_images(colour, 1).images
    assert np.array_equal(noise[:, 0], noise[:, 1])
    assert np.array_equal(noise[:, 0], noise[:, 2])


def test_nodes_in_sorted_order_take_sources_and_draws_in_turn() -> None:
    given = ArmSat(sources=("sat", "chest"), draws=2)
    assert given.per_node
    assert given.bundle_of(["d", "b", "a", "c", "e"]) == {
        "a": "sat", "b": "chest", "c": "sat.1", "d": "chest.1", "e": "sat"
    }  # fmt: skip
    assert not ArmSat(sources=("chest",)).per_node


def test_an_arms_sat_reaches_its_nodes_and_its_digest_the_run(folder: StudyFolder, pool: Pool) -> None:
    digests = {arm.name: run_of(folder, pool, arm.name)[0].sat_digest for arm in folder.config.arms}
    assert digests["hsl"] == digests["hsl-shared"] == pool.sat_digest
    assert digests["swarm"] is None
    swapped = ["hsl", "hsl-other-sat", "hsl-draw-per-node", "hsl-sat-per-node", "hsl-permuted-sat", "hsl-noise-sat"]
    assert len({digests[name] for name in swapped}) == len(swapped)
    assert digests["swarm-mixed"] == digests["hsl-other-sat"]
    _, own = run_of(folder, pool, "hsl-draw-per-node")
    held = {node: own.sat_at(node) for node in NODES}
    assert held["clinic-a"] is not held["clinic-b"]
    assert len({sat_digest(sat) for sat in held.values() if sat is not None}) == 3
    _, own = run_of(folder, pool, "hsl-noise-sat")
    assert own.sat_at("clinic-a") is own.sat_at("clinic-b")


def test_null_controls_of_styled_anchors_have_anchors_of_their_own(
    folder: StudyFolder, pool: Pool, partition: Partition
) -> None:
    """Noise, or another draw at each node; the site's own images in other styles need no anchor at all."""

    def views(arm: str, node: str) -> bytes:
        run, own = run_of(folder, pool, arm)
        data = replace(site_data(own, partition)[node], training=site_data(own, partition)["clinic-a"].training)
        batch = PairLoader(RoundSpec("run", "clinic-a", 1, run), data, "cpu").batch(0, 0)
        return b"" if batch.views is None else batch.views[0].numpy().tobytes()

    common = {node: views("styled-anchors-restyled", node) for node in NODES}
    assert len(set(common.values())) == 1
    assert views("styled-noise", "clinic-b") == views("styled-noise", "clinic-a") != common["clinic-a"]
    assert len({views("styled-draw-per-node", node) for node in NODES}) == len(NODES)
    assert run_of(folder, pool, "styled-own-restyled")[0].sat_digest is None


def test_images_of_any_sat_and_of_its_groups_are_in_no_arms_data(tmp_path: Path) -> None:
    """The `public` bundle is made of the study's own images here: they and their patients' other views go."""
    made = StudyFolder.create(study(), tmp_path)
    whole = made.pool()
    shown = [at for at, case in enumerate(whole.cases) if case.group == whole.cases[-1].group][:1]
    stolen = image_set(24, 1)
    stolen.images[0] = whole.images[shown[0]]
    write_sat(tmp_path / "sat.public.safetensors", stolen)
    left = made.pool()
    gone = {case.name for case in whole.cases} - {case.name for case in left.cases}
    assert gone == {case.name for case in whole.cases if case.group == whole.cases[shown[0]].group}
    assert left.num_in_sat == len(gone) > 0
    assert len(left.images) == len(left.cases) == len(left.labels)
    kept = {case.name: image for case, image in zip(whole.cases, whole.images, strict=True)}
    assert all(np.array_equal(kept[case.name], image) for case, image in zip(left.cases, left.images, strict=True))


def test_cells_of_such_arms_are_trained_and_scored(folder: StudyFolder, pool: Pool) -> None:
    """With anchors of its own each node scores for itself, although all hold one model."""
    row = cell_process.run(folder, 0, "hsl-sat-per-node", 0)
    with np.load(folder.scores(row.key)) as scores:
        logits = dict(zip(scores["nodes"].tolist(), scores["logits"], strict=True))
    assert np.array_equal(logits["clinic-a"], logits["clinic-c"])
    assert not np.array_equal(logits["clinic-a"], logits["clinic-b"])
    for arm in ("swarm-mixed", "styled-draw-per-node"):
        assert cell_process.run(folder, 0, arm, 0).nodes.keys() == set(NODES)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"sat": {"sources": ["chest"]}}, "wants the SAT chest; the study has sat, public"),
        ({"sat": {"draws": 2}, "run": {"method": {"name": "swarm"}}}, "trains on no SAT"),
        ({"sat": {"draws": 2}, "pretrain_rounds": 1}, "they share one SAT"),
        ({"sat": {"labels": "shuffled"}}, "permuted"),
        ({"pretrain_from": "views"}, "give pretrain_rounds, e.g. 8"),
        ({"pretrain_from": "views", "pretrain_rounds": 1, "sat": {"draws": 2}}, "they share one SAT"),
        ({"run": {"method": {"name": "swarm"}, "training": {"added_images": "sat"}}}, "set sat_task_id to fracture"),
    ],
)
def test_an_arm_that_cannot_be_is_refused_before_anything_runs(arm: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        study(arms=[{"name": "a", **arm}], contrasts=[])


FILMS = {"reader": "npz", "classes": {"fractured": "fractured", "intact": "intact"}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sats": {"films": {**FILMS, "task_id": "fracture"}}}, "must be fractured and intact"),
        ({"sats": {"public": FILMS}}, "cannot be called public"),
    ],
)
def test_what_a_study_says_of_a_sat_must_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        study(**changes)


def test_a_sat_is_of_the_studys_task_where_the_study_says_so_by_name() -> None:
    names = {"task_id": "fracture", "positive_class": "fractured", "negative_class": "intact"}
    mixed = {"name": "swarm", "sat": {"sources": ["films"]}, "run": ANCHORS["arms"][9]["run"]}
    config = study(sats={"films": {**FILMS, **names}}, arms=[mixed], contrasts=[])
    assert config.run_config(config.arms[0], NODES, 0, "0" * 64).sat_task_id == "fracture"
    with pytest.raises(ValidationError, match="set sat_task_id"):
        study(sats={"films": FILMS}, arms=[mixed], contrasts=[])


def test_every_bundle_is_drawn_once_by_keys_of_its_own(folder: StudyFolder, pool: Pool) -> None:
    assert sorted(pool.sat_files) == ["public", "sat", "sat.1", "sat.2"]
    assert len({sat_digest(pool.bundle(name)) for name in pool.sat_files}) == 4
    assert pool.sat_files["sat"] == folder.path / "sat.safetensors"
    before = {name: path.stat().st_mtime_ns for name, path in pool.sat_files.items()}
    assert {name: path.stat().st_mtime_ns for name, path in folder.pool().sat_files.items()} == before
