"""Room on the disk: looked for before, and told in a sentence when it is gone meanwhile."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hsl_model import durable
from hsl_model.checkpoint import TensorFileWriter, read_tensors, spec_of, write_tensors
from hsl_model.durable import RESERVE_BYTES, DiskFullError, check_room, told_when_full
from hsl_model.snapshot import EpochFacts, Position, SnapshotFacts, SnapshotFolder
from tests.small_disk import MB, fill, small_disk

BIG = {"weight": np.arange(1_000_000, dtype=np.float32)}  # 4 MB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Room for the reserve and twelve megabytes."""
    with small_disk(tmp_path / "disk", RESERVE_BYTES + 12 * MB) as folder:
        yield folder


def test_a_disk_with_room_says_nothing(tmp_path: Path) -> None:
    check_room(tmp_path, 1)


def test_what_is_missing_is_said_in_megabytes_and_without_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with pytest.raises(DiskFullError) as caught:
        check_room(folder, 1 << 60)
    sentence = caught.value.sentence()
    assert "folder store has" in sentence
    assert "Free at least 115" in sentence
    assert str(tmp_path) not in sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_is_told_as_full(tmp_path: Path, number: int) -> None:
    with pytest.raises(DiskFullError), told_when_full(tmp_path, 5):
        raise OSError(number, os.strerror(number))


def test_other_errors_of_a_disk_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as caught, told_when_full(tmp_path, 5):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert caught.value.errno == errno.EIO


def test_a_tensor_file_without_room_is_not_begun(disk: Path) -> None:
    write_tensors(disk / "fits.safetensors", BIG)
    ballast = fill(disk, leave=RESERVE_BYTES + 3 * MB)
    with pytest.raises(DiskFullError):
        write_tensors(disk / "late.safetensors", BIG)
    assert sorted(path.name for path in disk.iterdir()) == ["ballast", "fits.safetensors"]
    ballast.unlink()
    write_tensors(disk / "late.safetensors", BIG)


def test_a_disk_that_fills_up_under_a_tensor_file_leaves_nothing_of_it(disk: Path) -> None:
    """Real ENOSPC, in the middle of a write and again when the rest is flushed."""
    path = disk / "model.safetensors"

    def write() -> None:
        with TensorFileWriter(path, [spec_of("weight", BIG["weight"])]) as writer:
            writer.write("weight", BIG["weight"][:1000])
            fill(disk)
            writer.write("weight", BIG["weight"][1000:])
            writer.finish()

    with pytest.raises(DiskFullError):
        write()
    assert [found.name for found in disk.iterdir()] == ["ballast"]
    (disk / "ballast").unlink()
    write_tensors(path, BIG)


def facts(step: int) -> SnapshotFacts:
    best = EpochFacts(epoch=1, auc=0.5, loss=0.5, training_loss=0.5, mixture_ratio=None)
    return SnapshotFacts(identity="a" * 64, environment={}, restarted=False, position=Position(step=step), best=best)


def test_a_snapshot_without_room_leaves_the_one_before(disk: Path) -> None:
    snapshots = SnapshotFolder(disk)
    snapshots.write(facts(1), BIG, {})
    ballast = fill(disk, leave=RESERVE_BYTES + 1 * MB)
    with pytest.raises(DiskFullError):
        snapshots.write(facts(2), BIG, {})
    kept = SnapshotFolder(disk).read()
    assert kept is not None
    assert kept.position.step == 1
    assert snapshots.tensors(kept.state_file)["weight"].tolist() == BIG["weight"].tolist()
    ballast.unlink()
    snapshots.write(facts(2), BIG, {})
    newest = SnapshotFolder(disk).read()
    assert newest is not None
    assert newest.position.step == 2


def test_the_reserve_is_what_small_files_live_on(disk: Path) -> None:
    fill(disk, leave=RESERVE_BYTES // 2)
    durable.write_bytes(disk / "small.json", b"{}")
    with pytest.raises(DiskFullError):
        write_tensors(disk / "model.safetensors", {"weight": np.ones(1, np.float32)})
    assert not read_or_none(disk / "model.safetensors")


def read_or_none(path: Path) -> object:
    return read_tensors(path) if path.exists() else None
