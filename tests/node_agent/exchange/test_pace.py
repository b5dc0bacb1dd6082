"""A site's limit on its transfers: kept to the byte on a virtual clock, shared, and never mistaken for a stall."""

import io
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsl_model.protocol.clock import ManualClock, SystemClock
from node_agent.errors import Interrupted
from node_agent.exchange import open_exchange
from node_agent.exchange.pace import BURST_S, TICK_S, Bucket, Pace
from node_agent.exchange.pipeline import DOWNLOAD_IN_FLIGHT, MOST_UPLOAD_IN_FLIGHT, UPLOAD_IN_FLIGHT, OpenMode
from node_agent.settings import NodeSettings
from tests.embedded_hub.helpers import HubProcess, Login
from tests.node_agent.exchange.helpers import MIB, Watch, make_content
from tests.node_agent.exchange.test_pipeline import BIG, LAZY, ScriptedChannel, remote

MB = 1_000_000


def wanted() -> None:
    """Nobody wants the transfer to end."""


sizes = st.lists(st.integers(1, 300_000), min_size=1, max_size=60)


@given(st.integers(16_384, 50 * MB), st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 2)), max_size=60))
def test_no_stretch_of_time_moves_more_than_its_share(speed: int, moves: list[tuple[int, float]]) -> None:
    """Of any two moments: what moved between them is at most speed times time, and a burst."""
    clock = ManualClock()
    bucket, moved = Bucket(speed, clock), list[tuple[float, int]]()
    for num_bytes, pause_s in moves:
        clock.advance(pause_s)
        bucket.take(num_bytes, wanted)
        moved.append((clock.monotonic(), num_bytes))
    for first in range(len(moved)):
        total = 0
        for at_s, num_bytes in moved[first + 1 :]:
            total += num_bytes
            assert total <= speed * (at_s - moved[first][0] + BURST_S) + 1


@given(st.integers(16_384, 50 * MB), sizes)
def test_a_transfer_that_is_never_late_takes_as_long_as_its_bytes(speed: int, blocks: list[int]) -> None:
    clock = ManualClock()
    bucket = Bucket(speed, clock)
    for num_bytes in blocks:
        bucket.take(num_bytes, wanted)
    assert clock.monotonic() == pytest.approx(sum(blocks) / speed)


@given(sizes)
def test_without_a_limit_nothing_waits(blocks: list[int]) -> None:
    clock = ManualClock()
    for num_bytes in blocks:
        Bucket(None, clock).take(num_bytes, wanted)
    assert clock.monotonic() == 0


def test_a_wait_of_hours_is_ended_within_a_second() -> None:
    clock = ManualClock()
    bucket, asked_at = Bucket(16_384, clock), list[float]()

    def check() -> None:
        asked_at.append(clock.monotonic())
        if clock.monotonic() >= 7:
            raise Interrupted

    with pytest.raises(Interrupted):
        bucket.take(1 << 30, check)
    assert clock.monotonic() < 7 + TICK_S
    assert max(later - before for before, later in pairwise(asked_at)) <= TICK_S


def test_two_transfers_share_the_speed() -> None:
    """Real threads, real time: a lower bound only, so that a busy machine cannot fail it."""
    clock = SystemClock()
    bucket, began_s = Bucket(4 * MB, clock), clock.monotonic()

    def transfer() -> None:
        for _ in range(10):
            bucket.take(100_000, wanted)

    threads = [threading.Thread(target=transfer) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() - began_s >= 2 * MB / (4 * MB) - BURST_S


# --- in a transfer ---------------------------------------------------------------------------------------------------


@pytest.fixture
def login(new_login: Callable[[], Login]) -> Login:
    return new_login()


@pytest.mark.parametrize("clock", [ManualClock, SystemClock])
def test_eight_megabytes_at_four_a_second_take_two_seconds(
    clock: type[ManualClock] | type[SystemClock], hub: HubProcess, login: Login, tmp_path: Path
) -> None:
    """On a virtual clock exactly; on the real one no less, and a busy machine may take longer."""
    content, time = make_content(tmp_path, 8 * MB), clock()
    pace = Pace(time, max_upload_bytes_per_s=4 * MB, max_download_bytes_per_s=4 * MB)
    exchange = open_exchange(hub.address(login), login.key, login.node_id, pace)
    exchange.list_own()  # connected
    put = partial(exchange.put_tensors, content.path, login.node_id, content.sha256)
    get = partial(exchange.get_tensors, login.node_id, content.sha256, len(content), tmp_path / "target")
    for move in (put, get):
        began_s = time.monotonic()
        move(Watch())
        took_s = time.monotonic() - began_s
        assert 2 - BURST_S <= took_s <= (2.01 if clock is ManualClock else 60)
    assert (tmp_path / "target").read_bytes() == content.data
    exchange.close()


def test_a_site_that_waits_for_its_limit_is_not_stalled(hub: HubProcess, login: Login, tmp_path: Path) -> None:
    """Each block waits longer than the stall rule would bear of a silent hub."""
    content = make_content(tmp_path, 100_000)
    pace = Pace(max_upload_bytes_per_s=40_000, max_download_bytes_per_s=40_000)
    exchange = open_exchange(hub.address(login), login.key, login.node_id, pace)
    exchange._link.stall_s = 0.5  # type: ignore[attr-defined]
    exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
    exchange.get_tensors(login.node_id, content.sha256, len(content), tmp_path / "target", Watch())
    assert (tmp_path / "target").read_bytes() == content.data
    exchange.close()


@pytest.mark.parametrize("speed", [None, 16_384, 500_000, 4 * MB, 400 * MB])
def test_a_limit_also_bounds_what_is_in_flight(speed: int | None) -> None:
    """So that progress shows, and no burst takes the line. Everything arrives all the same."""
    pace = Pace(ManualClock(), max_upload_bytes_per_s=speed, max_download_bytes_per_s=speed)
    up = ScriptedChannel(window=LAZY)
    remote(up, OpenMode.CREATE, pace=pace).write(io.BytesIO(BIG), (0, len(BIG)), lambda done: None)
    assert bytes(up.content) == BIG
    down = ScriptedChannel(bytearray(BIG), window=LAZY, max_read=32 * 1024)
    assert b"".join(remote(down, OpenMode.READ, pace=pace).read(0, len(BIG))) == BIG
    for channel, most in ((up, UPLOAD_IN_FLIGHT), (down, DOWNLOAD_IN_FLIGHT)):
        bound = most if speed is None else min(most, max(64 * 1024, speed // 4))
        assert bound // 2 <= channel.most_in_flight <= bound


def test_what_is_asked_for_again_is_not_counted_twice() -> None:
    """A server that answers short has sent each byte once."""
    clock = ManualClock()
    pace = Pace(clock, max_download_bytes_per_s=1 * MB)
    channel = ScriptedChannel(bytearray(BIG), max_read=32 * 1024)
    assert b"".join(remote(channel, OpenMode.READ, pace=pace).read(0, len(BIG))) == BIG
    assert clock.monotonic() == pytest.approx(len(BIG) / MB)


def test_a_long_line_has_more_in_flight() -> None:
    """Speed is bytes in flight by round trip: measured with the questions that open the file."""

    class FarChannel(ScriptedChannel):
        def recv(self, size: int) -> bytes:
            clock.advance(0.02)
            return super().recv(size)

    clock = ManualClock()
    big = bytearray(12 * MIB)
    down = FarChannel(big, window=LAZY)
    assert b"".join(remote(down, OpenMode.READ, pace=Pace(clock)).read(0, len(big))) == big
    assert 3 * DOWNLOAD_IN_FLIGHT - MIB <= down.most_in_flight <= 4 * DOWNLOAD_IN_FLIGHT
    up = FarChannel(window=LAZY)
    remote(up, OpenMode.CREATE, pace=Pace(clock)).write(io.BytesIO(bytes(big)), (0, len(big)), lambda done: None)
    assert up.most_in_flight == MOST_UPLOAD_IN_FLIGHT > UPLOAD_IN_FLIGHT


def test_limits_are_settings_with_their_unit_in_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSL_NODE_MAX_UPLOAD_BYTES_PER_S", "4000000")
    settings = NodeSettings(workdir=tmp_path)
    assert (settings.max_upload_bytes_per_s, settings.max_download_bytes_per_s) == (4_000_000, None)
