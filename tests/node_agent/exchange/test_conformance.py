"""What every exchange must do, whatever the hub is."""

import hashlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from hsl_model.protocol.errors import RemotePathError
from hsl_model.protocol.manifest import MAX_MANIFEST_BYTES
from hsl_model.protocol.paths import manifest_path, part_path, tensor_path
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import ExchangeError
from tests.node_agent.exchange.conftest import Site
from tests.node_agent.exchange.helpers import MIB, Watch, failure_of, make_content

NewSite = Callable[[], Site]
SIZES = (0, 1, 32767, 32768, 32769, 262143, 262144, 262145, MIB, 3 * MIB + 7)


@pytest.mark.parametrize("num_bytes", SIZES)
def test_what_one_node_puts_another_gets(new_site: NewSite, tmp_path: Path, num_bytes: int) -> None:
    owner, reader = new_site(), new_site()
    content, target, up, down = make_content(tmp_path, num_bytes), tmp_path / "target", Watch(), Watch()
    owner.exchange.put_tensors(content.path, owner.node_id, content.sha256, up)
    reader.exchange.get_tensors(owner.node_id, content.sha256, num_bytes, target, down)
    assert target.read_bytes() == content.data
    for watch in (up, down):
        assert watch.start == 0
        assert watch.moves[-1] == (num_bytes, num_bytes)
        assert all(before[0] <= after[0] for before, after in pairwise(watch.moves))
    assert owner.exchange.list_own() == (tensor_path(owner.node_id, content.sha256),)
    assert sorted(path.name for path in tmp_path.glob("target*")) == ["target"]


def test_what_is_there_is_not_moved_again(new_site: NewSite, tmp_path: Path) -> None:
    site, content, target = new_site(), make_content(tmp_path, 2 * MIB), tmp_path / "target"
    for _ in range(2):
        up, down = Watch(), Watch()
        site.exchange.put_tensors(content.path, site.node_id, content.sha256, up)
        site.exchange.get_tensors(site.node_id, content.sha256, len(content), target, down)
    assert up.moves == down.moves == [(len(content), len(content))]


def test_manifests_appear_whole_and_are_replaced_whole(new_site: NewSite) -> None:
    owner, reader = new_site(), new_site()
    path = manifest_path(owner.node_id, "run-1", 7, "ab" * 32)
    for raw in (b'{"one": 1}', b'{"one": 1}', b"{}" * 40_000):
        owner.exchange.put_manifest(raw, path)
        assert reader.exchange.get_manifest(path, hashlib.sha256(raw).hexdigest()) == raw
        assert owner.exchange.list_own() == (path,)
    with pytest.raises(ExchangeError) as caught:
        reader.exchange.get_manifest(path, "00" * 32)
    assert caught.value.kind is FailureKind.MISMATCH


def test_a_huge_manifest_is_not_read(new_site: NewSite) -> None:
    owner, reader = new_site(), new_site()
    path, raw = manifest_path(owner.node_id, "run-1", 7, "ab" * 32), b"x" * (MAX_MANIFEST_BYTES + 1)
    (owner.folder / path.rpartition("/")[2]).write_bytes(raw)
    with pytest.raises(ExchangeError) as caught:
        reader.exchange.get_manifest(path, hashlib.sha256(raw).hexdigest())
    assert caught.value.kind is FailureKind.MISMATCH


def test_what_is_not_there_is_said_so(new_site: NewSite, tmp_path: Path) -> None:
    site = new_site()
    calls: list[Callable[[], object]] = [
        lambda: site.exchange.get_tensors(site.node_id, "ab" * 32, 5, tmp_path / "target", Watch()),
        lambda: site.exchange.get_tensors("nobody", "ab" * 32, 5, tmp_path / "target", Watch()),
        lambda: site.exchange.get_manifest(manifest_path(site.node_id, "run-1", 0, "ab" * 32), "ab" * 32),
    ]
    for call in calls:
        with pytest.raises(ExchangeError) as caught:
            call()
        assert caught.value.kind is FailureKind.NOT_YET_THERE
    assert list(tmp_path.glob("target*")) == []


@pytest.mark.parametrize("found_bytes", [0, 999, 1001, 4 * MIB])
def test_a_file_of_another_size_is_refused_unread(new_site: NewSite, tmp_path: Path, found_bytes: int) -> None:
    owner, reader = new_site(), new_site()
    content, watch = make_content(tmp_path, 1000), Watch()
    (owner.folder / f"{content.sha256}.safetensors").write_bytes(b"x" * found_bytes)
    with pytest.raises(ExchangeError) as caught:
        reader.exchange.get_tensors(owner.node_id, content.sha256, 1000, tmp_path / "target", watch)
    assert caught.value.kind is FailureKind.MISMATCH
    assert watch.done <= 1000
    assert list(tmp_path.glob("target*")) == []


def test_wrong_bytes_of_the_right_size_are_refused(new_site: NewSite, tmp_path: Path) -> None:
    owner, reader = new_site(), new_site()
    content = make_content(tmp_path, 1000)
    (owner.folder / f"{content.sha256}.safetensors").write_bytes(b"x" * 1000)
    with pytest.raises(ExchangeError) as caught:
        reader.exchange.get_tensors(owner.node_id, content.sha256, 1000, tmp_path / "target", Watch())
    assert caught.value.kind is FailureKind.MISMATCH
    assert list(tmp_path.glob("target*")) == []


def test_a_file_that_rotted_on_the_hub_is_replaced_by_its_owner(new_site: NewSite, tmp_path: Path) -> None:
    owner, reader = new_site(), new_site()
    content, target = make_content(tmp_path, 5000), tmp_path / "target"
    for rotten in (b"x" * 5000, b"x" * 4999, b""):
        (owner.folder / f"{content.sha256}.safetensors").write_bytes(rotten)
        owner.exchange.put_tensors(content.path, owner.node_id, content.sha256, Watch())
        reader.exchange.get_tensors(owner.node_id, content.sha256, 5000, target, Watch())
        assert target.read_bytes() == content.data
        target.unlink()


def test_bytes_that_are_not_the_named_ones_are_never_published(new_site: NewSite, tmp_path: Path) -> None:
    site, content = new_site(), make_content(tmp_path, 5000)
    with pytest.raises(ExchangeError) as caught:
        site.exchange.put_tensors(content.path, site.node_id, "ab" * 32, Watch())
    assert caught.value.kind is FailureKind.MISMATCH
    assert site.exchange.list_own() == ()


@pytest.mark.parametrize("kept", ["damaged", "too long", "right so far"])
def test_an_old_part_on_the_hub_does_no_harm(new_site: NewSite, tmp_path: Path, kept: str) -> None:
    """A damaged one costs one more try: the hash finds it, and it is gone."""
    site, content = new_site(), make_content(tmp_path, 4 * MIB)
    data = {
        "damaged": b"x" + content.data[1 : 3 * MIB],
        "too long": content.data + b"x",
        "right so far": content.data[: 3 * MIB],
    }[kept]
    (site.folder / f"{content.sha256}.part").write_bytes(data)
    put = partial(site.exchange.put_tensors, content.path, site.node_id, content.sha256, Watch())
    if (kind := failure_of(put)) is not None:
        assert (kept, kind) == ("damaged", FailureKind.MISMATCH)
        assert site.exchange.list_own() == ()
        put()
    assert site.exchange.list_own() == (tensor_path(site.node_id, content.sha256),)
    assert (site.folder / f"{content.sha256}.safetensors").read_bytes() == content.data


@pytest.mark.parametrize("kept", ["damaged", "too long", "right so far"])
def test_an_old_local_part_does_no_harm(new_site: NewSite, tmp_path: Path, kept: str) -> None:
    site, content, target = new_site(), make_content(tmp_path, 4 * MIB), tmp_path / "target"
    site.exchange.put_tensors(content.path, site.node_id, content.sha256, Watch())
    data = {
        "damaged": b"x" + content.data[1 : 3 * MIB],
        "too long": content.data + b"x",
        "right so far": content.data[: 3 * MIB],
    }[kept]
    (tmp_path / "target.part").write_bytes(data)
    get = partial(site.exchange.get_tensors, site.node_id, content.sha256, len(content), target, Watch())
    if (kind := failure_of(get)) is not None:
        assert (kept, kind) == ("damaged", FailureKind.MISMATCH)
        assert list(tmp_path.glob("target*")) == []
        get()
    assert target.read_bytes() == content.data


def test_a_wrong_target_is_replaced(new_site: NewSite, tmp_path: Path) -> None:
    site, content, target = new_site(), make_content(tmp_path, 5000), tmp_path / "target"
    site.exchange.put_tensors(content.path, site.node_id, content.sha256, Watch())
    target.write_bytes(b"x" * 5000)
    site.exchange.get_tensors(site.node_id, content.sha256, 5000, target, Watch())
    assert target.read_bytes() == content.data


@pytest.mark.parametrize("cancel_at", [0, 1, 3 * MIB])
def test_a_cancelled_transfer_ends_between_blocks_and_goes_on_later(
    new_site: NewSite, tmp_path: Path, cancel_at: int
) -> None:
    owner, reader = new_site(), new_site()
    content, target = make_content(tmp_path, 6 * MIB), tmp_path / "target"
    watch = Watch(cancel_at)
    with pytest.raises(Interrupted):
        owner.exchange.put_tensors(content.path, owner.node_id, content.sha256, watch)
    assert watch.done < len(content)
    assert tensor_path(owner.node_id, content.sha256) not in owner.exchange.list_own()
    owner.exchange.put_tensors(content.path, owner.node_id, content.sha256, Watch())

    watch = Watch(cancel_at)
    with pytest.raises(Interrupted):
        reader.exchange.get_tensors(owner.node_id, content.sha256, len(content), target, watch)
    assert watch.done < len(content)
    assert not target.exists()
    reader.exchange.get_tensors(owner.node_id, content.sha256, len(content), target, Watch())
    assert target.read_bytes() == content.data


def test_own_files_are_listed_and_removed(new_site: NewSite, tmp_path: Path) -> None:
    site, content = new_site(), make_content(tmp_path, 100)
    assert site.exchange.list_own() == ()
    site.exchange.put_tensors(content.path, site.node_id, content.sha256, Watch())
    manifest = manifest_path(site.node_id, "run-1", 3, content.sha256)
    site.exchange.put_manifest(b"{}", manifest)
    part = part_path(site.node_id, "cd" * 32)
    (site.folder / f"{'cd' * 32}.part").write_bytes(b"half")
    for stranger in ("notes.txt", ".hidden", f"{'CD' * 32}.part"):
        (site.folder / stranger).write_bytes(b"not of the layout")
    everything = sorted([part, manifest, tensor_path(site.node_id, content.sha256)])
    assert list(site.exchange.list_own()) == everything
    for path in everything * 2:
        site.exchange.remove(path)
    assert site.exchange.list_own() == ()


def test_nothing_is_written_outside_the_own_folder(new_site: NewSite, tmp_path: Path) -> None:
    me, other = new_site(), new_site()
    content = make_content(tmp_path, 100)
    manifest = manifest_path(other.node_id, "run-1", 3, content.sha256)
    calls: list[Callable[[], object]] = [
        lambda: me.exchange.put_tensors(content.path, other.node_id, content.sha256, Watch()),
        lambda: me.exchange.put_tensors(content.path, "../x", content.sha256, Watch()),
        lambda: me.exchange.put_tensors(content.path, me.node_id, f"../{other.node_id}/{content.sha256}", Watch()),
        lambda: me.exchange.put_manifest(b"{}", manifest),
        lambda: me.exchange.put_manifest(b"{}", tensor_path(me.node_id, content.sha256)),
        lambda: me.exchange.put_manifest(b"{}", f"/nodes/{me.node_id}/../{other.node_id}/x.json"),
        lambda: me.exchange.remove(tensor_path(other.node_id, content.sha256)),
        lambda: me.exchange.remove("/etc/passwd"),
        lambda: me.exchange.get_manifest("/nodes/../users.json", "ab" * 32),
    ]
    for call in calls:
        with pytest.raises(RemotePathError):
            call()
    assert me.exchange.list_own() == other.exchange.list_own() == ()


def test_it_works_again_after_close(new_site: NewSite, tmp_path: Path) -> None:
    site, content = new_site(), make_content(tmp_path, 100)
    site.exchange.put_tensors(content.path, site.node_id, content.sha256, Watch())
    site.exchange.close()
    site.exchange.close()
    assert len(site.exchange.list_own()) == 1


def test_errors_of_the_local_disk_stay_what_they_are(new_site: NewSite, tmp_path: Path) -> None:
    site, content = new_site(), make_content(tmp_path, 100)
    with pytest.raises(FileNotFoundError):
        site.exchange.put_tensors(tmp_path / "missing", site.node_id, content.sha256, Watch())
    site.exchange.put_tensors(content.path, site.node_id, content.sha256, Watch())
    with pytest.raises(FileNotFoundError):
        site.exchange.get_tensors(site.node_id, content.sha256, 100, tmp_path / "no folder" / "target", Watch())
