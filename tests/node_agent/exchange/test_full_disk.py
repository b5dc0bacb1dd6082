"""A site's disk that is full before a download, or fills up in the middle of it: said, and gone on with later."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsl_model.durable import RESERVE_BYTES, DiskFullError
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import failure_of
from node_agent.exchange.base import Exchange, Room, local_part
from tests.node_agent.exchange.conftest import Site
from tests.node_agent.exchange.helpers import MIB, Content, Watch, make_content
from tests.small_disk import MB, fill, small_disk

NUM_BYTES = 6 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Room for the reserve, the file, and little more."""
    with small_disk(tmp_path / "disk", RESERVE_BYTES + NUM_BYTES + 2 * MB) as folder:
        yield folder


@pytest.fixture
def site(new_site: Callable[[], Site]) -> Site:
    return new_site()


@pytest.fixture
def content(site: Site, tmp_path: Path) -> Content:
    """It lies on the hub."""
    made = make_content(tmp_path, NUM_BYTES)
    site.exchange.put_tensors(made.path, site.node_id, made.sha256, Watch())
    return made


class Filling(Watch):
    """Takes the rest of the disk once `at` bytes have come."""

    def __init__(self, disk: Path, at: int, leave: int = 0) -> None:
        super().__init__()
        self._disk, self._at, self._leave = disk, at, leave

    def moved(self, done: int, total: int) -> None:
        super().moved(done, total)
        if done >= self._at and not (self._disk / "ballast").exists():
            fill(self._disk, self._leave)


def get(exchange: Exchange, site: Site, content: Content, target: Path, watch: Watch) -> None:
    exchange.get_tensors(site.node_id, content.sha256, len(content), target, watch)


def test_a_download_without_room_is_not_begun(site: Site, content: Content, disk: Path) -> None:
    target, watch = disk / "target", Watch()
    ballast = fill(disk, leave=RESERVE_BYTES + NUM_BYTES - MB)
    with pytest.raises(DiskFullError) as caught:
        get(site.exchange, site, content, target, watch)
    assert watch.moves == []
    assert not local_part(target).exists()
    failure = failure_of(caught.value)
    assert (failure.kind, failure.code) == (FailureKind.SPACE, "no_space")
    assert "Free at least" in failure.sentence
    ballast.unlink()
    get(site.exchange, site, content, target, Watch())
    assert target.read_bytes() == content.data


@pytest.mark.parametrize("at", [0, 1, NUM_BYTES // 2])
def test_a_disk_that_fills_up_in_the_middle_is_told_and_the_download_goes_on(
    site: Site, content: Content, disk: Path, at: int
) -> None:
    """Real ENOSPC from the kernel. The connection is as good as before."""
    target = disk / "target"
    with pytest.raises(DiskFullError):
        get(site.exchange, site, content, target, Filling(disk, at))
    assert not target.exists()
    (disk / "ballast").unlink()
    get(site.exchange, site, content, target, Watch())
    assert target.read_bytes() == content.data
    assert not local_part(target).exists()


def test_room_is_looked_at_again_while_a_large_file_comes(disk: Path) -> None:
    """Before the kernel says so, and before the journal has no room left."""
    room = Room(disk, NUM_BYTES)
    room.check(0)
    ballast = fill(disk, leave=RESERVE_BYTES - 1)
    room.check(1)  # not with every block
    with pytest.raises(DiskFullError):
        room.check(Room.LOOK_EVERY)
    ballast.unlink()


def test_what_is_here_already_needs_no_room(disk: Path) -> None:
    fill(disk, leave=RESERVE_BYTES + MB)
    Room(disk, NUM_BYTES).check(NUM_BYTES - MB // 2)
    with pytest.raises(DiskFullError):
        Room(disk, NUM_BYTES).check(0)
