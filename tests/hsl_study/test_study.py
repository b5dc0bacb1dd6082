"""A whole study on generated images: finished, killed half-way and continued, refused, and its tables."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hsl_cli.config_file import parse_file
from hsl_model.engine import EngineOptions, Interrupted
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.errors import ConfigError
from hsl_study import cell_process, cells, configs, engines
from hsl_study.cell_work import CellWork, Ended
from hsl_study.cells import CellReply, CellRow
from hsl_study.config import StudyConfig
from hsl_study.contrasts import contrast_table
from hsl_study.engines import RayMissingError, engine_named
from hsl_study.folder import StudyFolder
from hsl_study.grid import BudgetError, CellFailedError, Grid, NothingToRunError
from hsl_study.report import html_report
from hsl_study.results import Results
from hsl_study.tables import auc_table

SMOKE = parse_file(configs.path_of("smoke") or Path("smoke"))
assert isinstance(SMOKE, dict)


def tiny(**changes: Any) -> StudyConfig:
    """Two arms, one of whose nodes hold models of their own; one scenario that cannot be."""
    small = {
        **SMOKE,
        "seeds": [0, 1],
        "arms": [
            {"name": "swarm", "run": {"method": {"name": "swarm"}}},
            {"name": "local", "run": {"method": {"name": "local"}}},
        ],
        "run": {**SMOKE["run"], "num_rounds": 1},
        "contrasts": [("swarm", "local")],
        "features": True,
    }
    return StudyConfig.model_validate({**small, **changes})


IMPOSSIBLE = {"name": "too-large", "kind": "given", "nodes": {"a": [4000, 4000]}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    scenarios = [*SMOKE["scenarios"], IMPOSSIBLE]
    folder = StudyFolder.create(tiny(scenarios=scenarios), tmp_path_factory.mktemp("study"))
    Grid(folder, SystemClock(), lambda _: None).run(jobs=2, budget_hours=None)
    return folder


def results(folder: StudyFolder) -> dict[Any, Any]:
    """Rows by key, with the bytes of the score files behind their digests; without times, and without versions, since
    somebody may commit meanwhile."""
    for key, row in folder.rows().items():
        assert folder.scores(key).is_file(), row
    return {key: row.model_dump(exclude={"seconds", "versions"}) for key, row in folder.rows().items()}


def test_every_cell_has_a_row_and_what_cannot_be_has_its_reason(finished: StudyFolder) -> None:
    assert sorted(finished.rows()) == [("given", arm, seed) for arm in ("local", "swarm") for seed in (0, 1)]
    reasons = {(cell.scenario, cell.arm, cell.seed) for cell in finished.missing()}
    assert reasons == {("too-large", arm, seed) for arm in ("local", "swarm") for seed in (0, 1)}
    (row,) = [line for line in auc_table(Results(finished), "too-large").rows if line[0] == "swarm"]
    assert "8000" in row[2] or "of 2400 in training" in row[2]
    assert not list((finished.path / "cells").iterdir()), "models of finished cells are gone"


def test_scores_say_of_each_image_who_tests_on_it_and_what_every_node_thinks(finished: StudyFolder) -> None:
    with np.load(finished.scores(("given", "local", 0))) as found:
        assert found["logits"].shape == (3, len(found["case"]))
        assert (found["held"].sum(axis=0) == 1).all(), "an image lies at one node"
        assert len({row.tobytes() for row in found["logits"]}) == 3
    with np.load(finished.scores(("given", "swarm", 0))) as found:
        assert len({row.tobytes() for row in found["logits"]}) == 1, "a common model"
    row = finished.rows()["given", "swarm", 0]
    assert {node: (one.num_positive, one.num_negative) for node, one in row.nodes.items()} == {
        "clinic-a": (6, 12),
        "clinic-b": (12, 6),
        "clinic-c": (9, 9),
    }
    assert len({one.all_domain_auc for one in row.nodes.values()}) == 1


def test_a_node_is_scored_on_its_own_images_and_once_more_on_all() -> None:
    """Own: 3 wins against 1 and 2. All: it loses against 5, and 0 wins none of three: 2 pairs of 6."""
    logits, labels = np.array([1, 2, 3, 5, 0], np.float32), np.array([0, 0, 1, 0, 1], np.uint8)
    own, nowhere = np.array([True, True, True, False, False]), np.zeros(5, bool)
    scored: Any = SimpleNamespace(own=lambda _: own, is_unseen=nowhere, domains={})
    found = cells._scores(logits, labels, scored, "a")
    assert (found.auc, found.all_domain_auc) == (1.0, 2 / 6)
    assert (found.num_positive, found.num_negative) == (1, 2)


def test_features_before_training_are_common_and_afterwards_each_node_s_own(finished: StudyFolder) -> None:
    found = {arm: dict(Results(finished).features("given", arm))[1] for arm in ("swarm", "local")}
    for features in found.values():
        assert features.before.shape == features.after.shape == (54, 512)
        assert np.bincount(features.node).tolist() == [18, 18, 18]
        assert features.labels.sum() == 27
    assert (found["swarm"].before == found["local"].before).all(), "equal weights, equal images"
    assert (found["swarm"].after != found["local"].after).any(axis=1).all()
    row = finished.rows()["given", "swarm", 0]
    assert len(row.validation_aucs) == 2
    assert row.validation_aucs[row.deployed_round] == row.mean_validation_auc


def test_killed_in_a_cell_and_between_cells_the_results_are_the_same(finished: StudyFolder, tmp_path: Path) -> None:
    folder = StudyFolder.create(finished.config, tmp_path / "again")
    Grid(folder, SystemClock(), lambda _: None).folder.pool()
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from hsl_study import cell_process, federation\n"
        "from hsl_study.folder import StudyFolder\n"
        "whole = federation._Federation._finish\n"
        "def half(self, plan, files, results):\n"
        "    if plan.round_number == 1: os.kill(os.getpid(), 9)\n"
        "    return whole(self, plan, files, results)\n"
        "federation._Federation._finish = half\n"
        "cell_process.run(StudyFolder(Path(sys.argv[1])), 0, 'swarm', 1)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder.path)], check=False)
    assert killed.returncode == -9
    assert folder.cell(("given", "swarm", 1)).is_dir()
    first = finished.rows()["given", "swarm", 0]
    (folder.path / "results.jsonl").write_text(first.model_dump_json()[:-40])  # cut off in the middle of a line
    Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=None)
    assert results(folder) == results(finished)


# --- in pieces ---


def test_stopped_in_every_node_of_a_cell_and_continued_its_row_is_the_same(
    finished: StudyFolder, tmp_path: Path
) -> None:
    """Before the second step of the first node, and before the first ones of the others."""
    folder, key = StudyFolder.create(tiny(seeds=[0]), tmp_path), ("given", "swarm", 0)
    folder.pool()
    for stop in (1, 3, 4):
        asked = count()
        with pytest.raises(Interrupted):
            cell_process.run(folder, 0, "swarm", 0, should_stop=lambda: next(asked) == stop)  # noqa: B023 - used at once
        assert list(folder.cell(key).rglob("snapshot.json"))
    row = cell_process.run(folder, 0, "swarm", 0)
    expected = finished.rows()[key]
    assert row.model_dump(exclude={"seconds", "versions"}) == expected.model_dump(exclude={"seconds", "versions"})


def test_a_cell_ends_with_a_snapshot_when_its_study_is_gone_or_its_time_is_up(
    finished: StudyFolder, tmp_path: Path
) -> None:
    arms = [{"name": "swarm", "run": {"method": {"name": "swarm"}}}]
    folder = StudyFolder.create(tiny(seeds=[0], arms=arms, contrasts=[]), tmp_path)
    folder.pool()
    key, options = ("given", "swarm", 0), EngineOptions(snapshot_every_steps=None)
    work = CellWork(folder=folder.path, scenario=0, key=key, options=options)
    command = [sys.executable, "-m", "hsl_study.cell_process", work.model_dump_json()]
    orphan = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert CellReply.model_validate_json(orphan.stdout).row is None
    (snapshot,) = folder.cell(key).rglob("snapshot.json")
    assert json.loads(snapshot.read_bytes())["position"]["step"] == 0
    said: list[str] = []
    grid = Grid(folder, SystemClock(), said.append)
    assert grid.run(jobs=1, budget_hours=None, stop_after_s=0.0) == 1
    assert said[-1] == "given/swarm/0 was stopped; it goes on from its snapshot"
    assert json.loads(snapshot.read_bytes())["position"]["step"] == 1, "a piece is never without a step"
    so_far_s = json.loads((folder.cell(key) / "seconds.json").read_bytes())
    assert grid.run(jobs=1, budget_hours=None, stop_after_s=3600.0) == 0
    assert results(folder) == {key: results(finished)[key]}
    assert folder.rows()[key].seconds > so_far_s


def test_when_the_time_is_up_no_cell_is_begun_but_the_first_ones_always_are(
    finished: StudyFolder, tmp_path: Path
) -> None:
    """An engine is what runs cells and yields their rows: this one has them already."""
    folder = StudyFolder.create(tiny(), tmp_path)
    rows, given = finished.rows(), list[CellWork]()

    def ready(works: Iterator[CellWork], jobs: int) -> Iterator[tuple[CellWork, CellReply]]:
        for work in works:
            given.append(work)
            folder.cell(work.key).mkdir(parents=True)
            yield work, CellReply(row=rows[work.key], warnings=("it is warm",))

    class Clock(SystemClock):
        def monotonic(self) -> float:
            """Each of the first two cells takes half a minute."""
            return 30.0 * min(len(given), 2)

    said: list[str] = []
    grid = Grid(folder, Clock(), said.append, engine=ready)
    assert grid.run(jobs=1, budget_hours=None, stop_after_s=60.0) == 2
    assert [work.stop_after_s for work in given] == [60.0, 30.0]
    assert sum("it is warm" in line for line in said) == 1
    assert grid.run(jobs=1, budget_hours=None, stop_after_s=0.0) == 1
    assert given[-1].stop_after_s == 0.0
    assert grid.run(jobs=1, budget_hours=None) == 0
    assert folder.rows() == rows
    assert len(json.loads((folder.path / "estimates.json").read_bytes())) == 2, "measured once"


# --- engines ---


def test_ray_gives_the_rows_of_local_processes(finished: StudyFolder, tmp_path: Path) -> None:
    if find_spec("ray") is None:
        reason = "Ray is not installed: pip install 'heterosync[ray]'"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    before = dict(os.environ)
    folder = StudyFolder.create(tiny(seeds=[0]), tmp_path)
    Grid(folder, SystemClock(), lambda _: None, engine=engine_named("ray")).run(jobs=2, budget_hours=None)
    expected = {key: row for key, row in results(finished).items() if key[2] == 0}
    assert results(folder) == expected
    changed = {name for name in os.environ if os.environ[name] != before.get(name)}
    assert not changed & set(engines._RAY_SETTINGS), "nothing else that uses Ray here finds our settings"


def test_a_ray_that_others_could_reach_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address is asked for once it is up; what it calls the switch may change with a version."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    import ray

    ended: list[str] = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("ended"))
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.7")
    with pytest.raises(engines.RayOpenError, match=r"192\.0\.2\.7 in place of"):
        next(engines.on_ray(iter(()), 1))
    assert ended == ["ended"]


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    assert engine_named("local") is engines.local
    with pytest.raises(RayMissingError, match=r"pip install 'heterosync\[ray\]'"):
        engine_named("ray")
    with pytest.raises(ConfigError, match="choose one of local, ray"):
        engine_named("slurm")


def test_a_finished_study_runs_nothing_again(finished: StudyFolder) -> None:
    said: list[str] = []
    before = (finished.path / "results.jsonl").read_bytes()
    Grid(finished, SystemClock(), said.append).run(jobs=1, budget_hours=0.0)
    assert (finished.path / "results.jsonl").read_bytes() == before
    assert any(line.startswith("0 cells to run") for line in said)


def test_over_budget_nothing_is_trained(tmp_path: Path) -> None:
    folder = StudyFolder.create(tiny(seeds=[0]), tmp_path)
    with pytest.raises(BudgetError, match="2 cells would take"):
        Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=1e-9)
    assert folder.rows() == {}


def test_a_study_of_which_nothing_can_run_is_an_error_with_the_reason(tmp_path: Path) -> None:
    folder = StudyFolder.create(tiny(scenarios=[IMPOSSIBLE]), tmp_path)
    with pytest.raises(
        NothingToRunError, match=r"None of the study's cells can be run .* too-large .* cannot be built"
    ):
        Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=None)
    assert len(folder.missing()) == 4


def test_the_report_says_what_each_node_got(finished: StudyFolder) -> None:
    said = finished.scenarios()
    assert "npz phantoms.npz: 300 images found, 300 usable." in said
    assert "clinic-a             training 24:12 (24:12)" in said
    assert said in html_report(Results(finished))


def test_another_study_in_the_folder_is_refused(finished: StudyFolder) -> None:
    with pytest.raises(ConfigError, match="differs in scenarios, seeds;"):
        StudyFolder.create(tiny(seeds=[5]), finished.path)


def test_another_study_takes_the_place_of_one_that_trained_nothing_and_of_its_images(tmp_path: Path) -> None:
    def made(path: Path, images_seed: int) -> StudyFolder:
        study = tiny(seeds=[0], phantoms={**SMOKE["phantoms"], "seed": images_seed})
        folder = StudyFolder.create(study, path)
        with pytest.raises(BudgetError):
            Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=1e-9)
        return folder

    right, begun_wrong = made(tmp_path / "right", 1), made(tmp_path / "wrong", 2)
    assert (right.pool().images != begun_wrong.pool().images).any()
    mended = made(tmp_path / "wrong", 1)
    assert (mended.pool().images == right.pool().images).all()
    assert mended.pool().sat_digest == right.pool().sat_digest
    mended.cell(("given", "swarm", 0)).mkdir(parents=True)  # a cell has begun
    with pytest.raises(ConfigError, match="differs in phantoms;"):
        made(tmp_path / "wrong", 2)


def test_a_study_of_another_version_is_told_as_such(tmp_path: Path) -> None:
    StudyFolder.create(tiny(), tmp_path)
    identity = tmp_path / "study.json"
    identity.write_bytes(identity.read_bytes().replace(b'"arms":', b'"unknown_here":1,"arms":', 1))
    with pytest.raises(ConfigError, match="another version of HeteroSync"):
        StudyFolder(tmp_path)


def test_a_cell_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    folder = StudyFolder.create(tiny(seeds=[0]), tmp_path)
    folder.pool()
    cell = folder.cell(("given", "swarm", 0))
    cell.mkdir(parents=True)
    (cell / "run.json").write_text("{}")
    with pytest.raises(CellFailedError, match=r"given/swarm/0 ended with status 2: .* holds another run"):
        Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=None)


def test_of_a_cell_that_failed_unforeseen_all_that_it_said_is_kept(tmp_path: Path) -> None:
    folder = StudyFolder.create(tiny(seeds=[0]), tmp_path)
    folder.cell(("given", "swarm", 0)).parent.mkdir()
    folder.cell(("given", "swarm", 0)).write_text("a file where its folder should be")
    with pytest.raises(CellFailedError, match=r"given/swarm/0 ended with status 1: FileExistsError: .*failed\.log"):
        Grid(folder, SystemClock(), lambda _: None).run(jobs=1, budget_hours=None)
    log = (folder.path / "failed.log").read_text()
    assert log.startswith("given/swarm/0\nTraceback")


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [(-9, "", "for want of memory: fewer --jobs"), (-11, "", "it said nothing"), (1, "a\nb\n", ": b All that it said")],
)
def test_how_a_cell_ended_is_told(status: int, error: str, told: str, tmp_path: Path) -> None:
    work = CellWork(folder=tmp_path, scenario=0, key=("given", "swarm", 0), options=EngineOptions())
    with pytest.raises(CellFailedError, match=f"ended with status {status}: ") as raised:
        engines._reply(work, Ended(status, "", error))
    assert told in raised.value.sentence()


def test_tables_and_report_are_made_of_the_rows(finished: StudyFolder) -> None:
    aucs = {row[0]: row for row in auc_table(Results(finished), "given").rows}
    swarm = [row for row in finished.rows().values() if row.arm == "swarm"]
    means = [np.mean([node.auc for node in row.nodes.values()]) for row in swarm]  # type: ignore[arg-type]
    assert aucs["swarm"][-2] == f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"
    (contrast,) = contrast_table(Results(finished), "given").rows
    assert contrast[0] == "swarm - local"
    assert contrast[-1].startswith("declared, Holm p")
    page = html_report(Results(finished))
    assert "too-large" in page
    assert "data:image/png;base64," in page
    assert "src=" not in page.replace('src="data:', ""), "self-contained"


def test_undefined_values_are_said(tmp_path: Path) -> None:
    folder = StudyFolder.create(tiny(seeds=[0]), tmp_path)
    node = {"num_positive": 0, "num_negative": 5, "accuracy": 1.0}
    undefined = dict.fromkeys(("auc", "auprc", "recall", "precision", "all_domain_auc"))
    digests = dict.fromkeys(("config_sha256", "final_digest", "scores_sha256"), "0" * 64)
    row = CellRow(
        scenario="given", arm="swarm", seed=0, num_rounds=1, deployed_round=1, mean_validation_auc=None,
        nodes={"a": {**node, **undefined}}, versions={}, num_threads=1, seconds=1.0, **digests,
    )  # fmt: skip
    folder.cell(row.key).mkdir(parents=True)
    folder.finish(row)
    table = {line[0]: line for line in auc_table(Results(folder), "given").rows}
    assert table["swarm"][2] == "undefined"
    assert table["local"][2] == "not run yet"
    assert "at least two seeds" in contrast_table(Results(folder), "given").rows[0][1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": [{"name": "a", "run": {"training": {"batch": 8}}}], "contrasts": []}, "batch"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "named twice"),
        ({"scenarios": [SMOKE["scenarios"][0]] * 2}, "named twice"),
        ({"scenarios": [{"kind": "label-skew"}]}, "needs a ratio"),
        ({"scenarios": [{"kind": "given"}]}, "needs them"),
        ({"seeds": "3"}, "range like"),
        ({"contrasts": [("swarm", "nobody")]}, "nobody"),
        ({"phantoms": None}, "either data or phantoms"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        tiny(**changes)


def test_arms_differ_in_nothing_but_what_they_say() -> None:
    config = StudyConfig.model_validate(SMOKE)
    runs = {arm.name: config.run_config(arm, ("a", "b"), 7, "0" * 64) for arm in config.arms}
    assert {run.seed for run in runs.values()} == {7}
    assert {run.initial.seed for run in runs.values()} == {7}
    same = {json.dumps(run.training.model_dump(), sort_keys=True) for run in runs.values()}
    assert len(same) == 1
    assert {name for name, run in runs.items() if run.sat_digest} == {"hsl", "no-sat"}


def test_a_training_seed_of_its_own_is_another_training_from_another_start() -> None:
    """The partition is drawn from the cell's seed, which no run configuration holds (`StudyFolder.partition`)."""
    arms = [{"name": "a"}, {"name": "b", "training_seed_offset": 1000}]
    config = tiny(arms=arms, contrasts=[])
    runs = [config.run_config(arm, ("a", "b"), 7, "0" * 64) for arm in config.arms]
    assert [(run.seed, run.initial.seed) for run in runs] == [(7, 7), (1007, 1007)]
    assert runs[0].model_copy(update={"seed": 1007, "initial": runs[1].initial, "name": runs[1].name}) == runs[1]
