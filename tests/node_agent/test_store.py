from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import node_agent.store
from hsl_model.checkpoint import FileFacts, write_tensors
from hsl_model.protocol.clock import ManualClock
from node_agent.exchange.base import local_part
from node_agent.journal import Journal
from node_agent.store import FileKind, KeptFile, Store

RUN = "run-1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    journal = Journal(tmp_path / "journal.sqlite", ManualClock())
    yield Store(tmp_path / "store", journal)
    journal.close()


def made(store: Store, value: float) -> FileFacts:
    return write_tensors(store.folder.parent / f"{value}.safetensors", {"weight": np.full(4, value, np.float32)})


def take(store: Store, value: float, round_number: int, kind: FileKind = FileKind.FUSED) -> str:
    file = made(store, value)
    store.take(file, RUN, round_number, kind)
    return file.sha256


def test_a_taken_file_is_there_and_its_maker_keeps_the_original(store: Store) -> None:
    file = made(store, 1.0)
    store.take(file, RUN, 1, FileKind.UPDATE)
    store.take(file, RUN, 1, FileKind.UPDATE)  # after a crash
    assert store.is_intact(file.sha256)
    assert file.path.exists()
    kept = KeptFile(file.sha256, RUN, 1, FileKind.UPDATE, file.num_bytes)
    assert store.find_publishable(RUN, file.sha256) == kept
    assert store.find_publishable("run-2", file.sha256) is None


def test_wrong_bytes_are_noticed_by_a_new_process_and_after_distrust(store: Store, tmp_path: Path) -> None:
    sha256 = take(store, 1.0, 1)
    store.path(sha256).unlink()
    store.path(sha256).write_bytes(b"rot")
    assert store.is_intact(sha256)  # hashed before, by this process
    store.distrust([sha256])
    assert not store.is_intact(sha256)
    store.discard(sha256)
    assert store.find_publishable(RUN, sha256) is None
    store.discard(sha256)


def test_the_newest_file_that_is_still_there(store: Store) -> None:
    old, new = take(store, 1.0, 1), take(store, 2.0, 2)
    newest = store.newest(RUN, FileKind.FUSED, 3)
    assert newest is not None
    assert newest.sha256 == new
    before = store.newest(RUN, FileKind.FUSED, 2)
    assert before is not None
    assert before.sha256 == old
    store.discard(new)
    after_loss = store.newest(RUN, FileKind.FUSED, 3)
    assert after_loss is not None
    assert after_loss.sha256 == old
    assert store.newest("run-2", FileKind.FUSED, 3) is None


def test_of_a_round_there_is_one_fused_model(store: Store) -> None:
    old, new = take(store, 1.0, 1), take(store, 2.0, 1)
    assert not store.has(old)
    assert store.has(new)


def test_released_files_go_and_what_is_still_needed_stays(store: Store) -> None:
    initial = take(store, 0.0, 0, FileKind.INITIAL)
    fused = [take(store, float(number), number) for number in range(1, 6)]
    private = [take(store, 10.0 + number, number, FileKind.PRIVATE) for number in range(1, 6)]
    updates = [take(store, 20.0 + number, number, FileKind.UPDATE) for number in range(1, 6)]
    assert store.release(RUN, 5, keep=[fused[1]]) > 0
    assert [store.has(sha256) for sha256 in fused] == [False, True, False, True, True]  # kept best, newest two
    assert [store.has(sha256) for sha256 in private] == [False, False, False, True, True]
    assert [store.has(sha256) for sha256 in updates] == [False, False, False, False, True]
    assert store.has(initial)
    assert store.release(RUN, 5, keep=[fused[1]]) == 0


def test_a_file_kept_for_two_reasons_goes_with_the_last(store: Store) -> None:
    """With one member, the fused model of a round is its update."""
    sha256 = take(store, 1.0, 1, FileKind.UPDATE)
    take(store, 1.0, 1, FileKind.FUSED)
    store.finish_run(RUN)
    assert store.has(sha256)


def test_a_finished_run_keeps_its_models(store: Store) -> None:
    fused, private = take(store, 1.0, 1), take(store, 2.0, 1, FileKind.PRIVATE)
    update = take(store, 3.0, 1, FileKind.UPDATE)
    assert store.finish_run(RUN) == 1
    assert [store.has(sha256) for sha256 in (fused, private, update)] == [True, True, False]


@pytest.mark.parametrize("stage", ["before the file is gone", "before the folder is on the disk"])
def test_a_file_forgotten_before_a_crash_goes_at_the_next_start(
    store: Store, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Killed between the commit and the deletion; or the power went, and the deletion with it."""
    sha256 = take(store, 1.0, 1, FileKind.UPDATE)
    raw = store.path(sha256).read_bytes()
    place, name = (Store, "discard") if stage == "before the file is gone" else (node_agent.store, "fsync")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(place, name, crash)
        with pytest.raises(KeyboardInterrupt):
            store.finish_run(RUN)
    store.path(sha256).write_bytes(raw)
    stranger = store.path("a" * 64)
    stranger.write_bytes(b"initial weights of an admin")
    Store(store.folder, store._journal).remove_orphans()
    assert list(store.folder.iterdir()) == [stranger]


def test_a_forgotten_file_that_is_wanted_again_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_sweep", lambda self: 0)
        sha256 = take(store, 1.0, 1, FileKind.UPDATE)
        store.finish_run(RUN)
    assert take(store, 1.0, 2, FileKind.UPDATE) == sha256
    store.remove_orphans()
    assert store.has(sha256)


def test_parts_are_removed_and_files_are_not(store: Store) -> None:
    sha256 = take(store, 1.0, 1)
    (store.folder / "x.part").write_bytes(b"half")
    store.remove_parts()
    assert [path.name for path in store.folder.iterdir()] == [f"{sha256}.safetensors"]


def test_orphan_parts_go_and_those_of_a_download_that_goes_on_stay(store: Store) -> None:
    whole, wanted, stranger = take(store, 1.0, 1), "a" * 64, "b" * 64
    store.keep(KeptFile(wanted, RUN, 2, FileKind.UPDATE, 100))
    for sha256 in (wanted, stranger):
        local_part(store.path(sha256)).write_bytes(b"half")
    (store.folder / f"{wanted}.new").write_bytes(b"half a copy")
    store.remove_orphans()
    assert {path.name for path in store.folder.iterdir()} == {f"{whole}.safetensors", f"{wanted}.safetensors.part"}


def test_the_part_of_a_released_file_goes_with_its_reason(store: Store) -> None:
    released, kept = "a" * 64, "b" * 64
    for sha256, round_number in ((released, 1), (kept, 5)):
        store.keep(KeptFile(sha256, RUN, round_number, FileKind.UPDATE, 100))
        local_part(store.path(sha256)).write_bytes(b"half")
    assert store.release(RUN, 5, keep=()) == 0  # no whole file
    assert [path.name for path in store.folder.iterdir()] == [f"{kept}.safetensors.part"]
    store.finish_run(RUN)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("kind", FileKind)
def test_what_a_method_keeps_at_home_is_never_publishable(store: Store, kind: FileKind) -> None:
    sha256 = take(store, 1.0, 1, kind)
    assert (store.find_publishable(RUN, sha256) is None) == (kind in {FileKind.PRIVATE, FileKind.OWN})
