"""A killed and resumed round equals the uninterrupted one, bit for bit, for every method and at every boundary."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hsl_model import engine, snapshot
from hsl_model.engine import EngineOptions, Interrupted, RoundResult
from hsl_model.snapshot import SnapshotFolder, SnapshotVersionError
from tests.hsl_model.engine_helpers import (
    ARMS,
    arm_config,
    initial_file,
    result_bytes,
    run_config,
    site_data,
    spec_of,
    train,
)

EVERY_STEP = EngineOptions(snapshot_every_steps=1)
NUM_STEPS = 6  # two epochs of 4 + 4 + 2 images
NUM_STOPS = NUM_STEPS + 2 * 2  # and two validations of two batches


class Crash(Exception):
    pass


def stop_at(call: int) -> Callable[[], bool]:
    """True at the `call`-th question, counted from 0."""
    calls = iter(range(1000))
    return lambda: next(calls) == call


class Undisturbed:
    """One round and the bytes it leaves when nothing disturbs it."""

    def __init__(self, arm: str, folder: Path) -> None:
        self.folder = folder
        self.config, self.data = arm_config(arm), site_data()
        self.start = [initial_file(self.config, folder)]
        self.metrics = self.train(folder / "whole").metrics
        self.expected = result_bytes(folder / "whole")

    def train(self, workspace: Path, **how: object) -> RoundResult:
        return train(spec_of(self.config), self.data, self.start, workspace, **how)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """The undisturbed round of an arm, trained once."""
    return functools.cache(lambda arm: Undisturbed(arm, tmp_path_factory.mktemp(arm)))


@pytest.fixture(scope="module")
def hsl_round(undisturbed: Callable[[str], Undisturbed]) -> Undisturbed:
    return undisturbed("hsl")


@pytest.mark.parametrize("arm", ARMS)
def test_stopped_after_every_step_and_resumed(
    arm: str, undisturbed: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    """One round, stopped before its first step and again after each step it makes."""
    whole = undisturbed(arm)
    seen, stops = [-1], list[int]()
    while True:
        try:
            resumed = whole.train(
                tmp_path / "work",
                should_stop=lambda: seen[-1] > max(stops, default=-1),
                progress=lambda done, total: seen.append(done),
            )
            break
        except Interrupted:
            stops.append(seen[-1])
            assert not (tmp_path / "work" / "result.json").exists()
    assert stops == list(range(NUM_STEPS + 1))
    assert resumed.metrics == whole.metrics
    assert result_bytes(tmp_path / "work") == whole.expected


@pytest.mark.parametrize("arm", ARMS)
def test_crashed_after_every_snapshot_and_resumed(
    arm: str, undisturbed: Callable[[str], Undisturbed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = undisturbed(arm)
    write = SnapshotFolder.write

    def write_and_crash(self: SnapshotFolder, *given: object) -> None:
        write(self, *given)  # type: ignore[arg-type]
        raise Crash

    monkeypatch.setattr(SnapshotFolder, "write", write_and_crash)
    num_crashes = 0
    while True:
        try:
            whole.train(tmp_path / "work", options=EVERY_STEP)
            break
        except Crash:
            num_crashes += 1
    assert num_crashes == NUM_STEPS + 1  # every step, and the end of the first epoch
    assert result_bytes(tmp_path / "work") == whole.expected


@pytest.mark.parametrize("stop", [5, 7, 9])
def test_a_best_epoch_that_is_not_the_last_survives_a_resume(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "is_better", lambda epoch, best: best is None)  # the first epoch is the best
    config, data = arm_config("fedprox"), site_data()
    start = [initial_file(config, tmp_path)]
    whole = train(spec_of(config), data, start, tmp_path / "whole")
    assert whole.metrics.shared_epoch == 1
    with pytest.raises(Interrupted):
        train(spec_of(config), data, start, tmp_path / "stopped", should_stop=stop_at(stop))
    train(spec_of(config), data, start, tmp_path / "stopped")
    assert result_bytes(tmp_path / "stopped") == result_bytes(tmp_path / "whole")


@pytest.mark.parametrize("stop", range(NUM_STOPS))
def test_stopped_once_anywhere_and_resumed(stop: int, hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / f"stopped-{stop}"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, should_stop=stop_at(stop))
    hsl_round.train(workspace)
    assert result_bytes(workspace) == hsl_round.expected


@pytest.mark.parametrize("crash", [0, 2, 3, NUM_STEPS])
def test_a_crash_between_the_files_of_a_snapshot_leaves_the_older_one(
    crash: int, hsl_round: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of a snapshot is written last; killed before that, the round goes on from the snapshot before."""
    write_bytes, calls = snapshot.write_bytes, iter(range(1000))

    def crash_before(path: Path, data: bytes) -> None:
        if next(calls) == crash:
            raise Crash
        write_bytes(path, data)

    workspace = hsl_round.folder / f"torn-{crash}"
    monkeypatch.setattr(snapshot, "write_bytes", crash_before)
    with pytest.raises(Crash):
        hsl_round.train(workspace, options=EVERY_STEP)
    result = hsl_round.train(workspace, options=EVERY_STEP)
    assert not result.metrics.restarted
    assert result_bytes(workspace) == hsl_round.expected


def test_progress_counts_the_steps_of_the_round_and_goes_on_after_a_resume(hsl_round: Undisturbed) -> None:
    seen: list[tuple[int, int]] = []
    workspace = hsl_round.folder / "progress"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, should_stop=stop_at(2), progress=lambda *at: seen.append(at))
    assert seen == [(0, 6), (1, 6), (2, 6)]
    seen.clear()
    hsl_round.train(workspace, progress=lambda *at: seen.append(at))
    assert seen == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]


def test_a_finished_workspace_gives_its_result_again_without_training(hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / "twice"
    first = hsl_round.train(workspace)
    seen: list[object] = []
    second = hsl_round.train(workspace, should_stop=lambda: True, progress=lambda *at: seen.append(at))
    assert first == second
    assert seen == []
    assert sorted(result_bytes(workspace)) == ["result.json", "shared.safetensors"]


def test_a_damaged_result_is_trained_again_and_comes_out_the_same(hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / "damaged-result"
    first = hsl_round.train(workspace)
    first.shared.path.write_bytes(first.shared.path.read_bytes()[:-1])
    assert hsl_round.train(workspace) == first
    assert result_bytes(workspace) == hsl_round.expected


def test_another_start_model_is_other_work(hsl_round: Undisturbed, tmp_path: Path) -> None:
    """A snapshot or result made from another start must never be continued, and is no failed resume either."""
    workspace = hsl_round.folder / "other-start"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, should_stop=stop_at(3))
    config = run_config("hsl", initial={"seed": 5})
    other = [initial_file(config, tmp_path)]
    result = train(spec_of(hsl_round.config), hsl_round.data, other, workspace)
    assert not result.metrics.restarted
    train(spec_of(hsl_round.config), hsl_round.data, other, tmp_path / "fresh")
    assert result_bytes(workspace) == result_bytes(tmp_path / "fresh")
    hsl_round.train(workspace)
    assert result_bytes(workspace) == hsl_round.expected


def test_a_resume_in_another_environment_begins_the_round_anew_and_says_so(hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / "other-threads"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, options=EngineOptions(micro_batch_size=2), should_stop=stop_at(3))
    seen: list[tuple[int, int]] = []
    with pytest.raises(Interrupted):  # the record must survive a further interruption
        hsl_round.train(workspace, should_stop=stop_at(1), progress=lambda *at: seen.append(at))
    assert seen == [(0, 6), (1, 6)]
    result = hsl_round.train(workspace)
    assert result.metrics.restarted
    assert (workspace / "shared.safetensors").read_bytes() == hsl_round.expected["shared.safetensors"]


@pytest.mark.parametrize("kind", ["state_file", "best_file", "index"])
def test_a_damaged_snapshot_begins_the_round_anew_and_says_so(kind: str, hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / f"damaged-{kind}"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, should_stop=stop_at(5))  # after the first epoch: there is a best one
    index = workspace / "snapshot.json"
    damaged = index if kind == "index" else workspace / json.loads(index.read_text())[kind]["name"]
    damaged.write_bytes(damaged.read_bytes()[:-2])
    result = hsl_round.train(workspace)
    assert result.metrics.restarted
    assert (workspace / "shared.safetensors").read_bytes() == hsl_round.expected["shared.safetensors"]


def test_a_snapshot_of_a_newer_version_is_refused_and_kept(hsl_round: Undisturbed) -> None:
    workspace = hsl_round.folder / "newer"
    with pytest.raises(Interrupted):
        hsl_round.train(workspace, should_stop=stop_at(2))
    index = workspace / "snapshot.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"version": 999}))
    with pytest.raises(SnapshotVersionError, match="format 999"):
        hsl_round.train(workspace)
    assert index.exists()
