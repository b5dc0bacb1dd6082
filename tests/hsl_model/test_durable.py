import os
from pathlib import Path

import pytest

from hsl_model import durable


def test_write_bytes_replaces_the_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    target = tmp_path / "facts.json"
    durable.write_bytes(target, b"old")
    durable.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]


def test_a_temporary_left_by_a_crash_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "facts.json.tmp").write_bytes(b"half of something much longer")
    durable.write_bytes(tmp_path / "facts.json", b"whole")
    assert (tmp_path / "facts.json").read_bytes() == b"whole"


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> Path:
        steps.append(f"rename {source.name} {target.name}")
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    durable.write_bytes(tmp_path / "a", b"x")
    assert steps == ["fsync a.tmp", "rename a.tmp a", f"fsync {tmp_path.name}"]


def test_a_folder_and_those_above_it_have_their_names_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[str] = []
    monkeypatch.setattr(durable, "fsync", lambda path: settled.append(path.name))
    durable.make_folder(tmp_path / "models" / "run")
    assert settled == [tmp_path.name, "models"]
    durable.make_folder(tmp_path / "models" / "run")  # made before a crash, perhaps, and its name not on the disk
    assert settled == [tmp_path.name, "models", "models"]
    assert (tmp_path / "models" / "run").stat().st_mode & 0o777 == 0o700
