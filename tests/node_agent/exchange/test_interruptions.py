"""Lines that break at a given byte, fall silent, hubs that are killed, disks that are full: what the next try finds."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from embedded_hub.files import HubFiles
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.paths import manifest_path, part_path, tensor_path
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.pace import Pace
from node_agent.exchange.pipeline import SEND_BATCH, WRITE_BLOCK
from node_agent.exchange.reads import READ_BLOCK
from node_agent.exchange.sftp import SftpExchange
from tests.embedded_hub.helpers import HubProcess, HubThread, Login
from tests.faults.line import Fault, Line
from tests.node_agent.exchange.helpers import MIB, Content, Watch, failure_of, make_content
from tests.node_agent.exchange.mending import (
    BROKEN,
    WatchThatBreaks,
    check_parts,
    get,
    put,
    resume_and_check,
    resume_and_check_download,
)

NUM_BYTES = 2 * MIB + 12_345
CUTS = sorted({1, *(edge + off for edge in (WRITE_BLOCK, SEND_BATCH, 2 * MIB) for off in (-1, 0, 1)), NUM_BYTES})


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return make_content(tmp_path, NUM_BYTES)


@pytest.fixture
def line(hub: HubProcess) -> Iterator[Line]:
    with Line(hub.info["port"]) as running:
        yield running


@pytest.fixture
def site(hub: HubProcess, new_login: Callable[[], Login], line: Line) -> Iterator[tuple[SftpExchange, str]]:
    login = new_login()
    nearby = Pace(ManualClock())  # a busy machine must not look like a long line, which has more in flight
    exchange = SftpExchange(hub.address(login, port=line.port), login.key, login.node_id, pace=nearby)
    yield exchange, login.node_id
    exchange.close()


def test_an_upload_cut_at_any_byte_is_resumed(
    hub: HubProcess, site: tuple[SftpExchange, str], line: Line, content: Content
) -> None:
    for cut in CUTS:
        with pytest.raises(ExchangeError) as caught:
            put(site, content, WatchThatBreaks(lambda cut=cut: line.break_after(cut)))
        assert caught.value.kind in BROKEN, cut
        resume_and_check(hub, site, line, content)


# Parts that end at, just before and just behind every boundary that the transfer has.
EDGES = (WRITE_BLOCK, SEND_BATCH, READ_BLOCK, MIB, MIB + WRITE_BLOCK, 2 * MIB)
PARTS = sorted({0, 1, *(edge + off for edge in EDGES for off in (-1, 0, 1)), NUM_BYTES - 1, NUM_BYTES})


def test_a_part_of_any_size_is_gone_on_with_to_the_byte(
    hub: HubProcess, site: tuple[SftpExchange, str], line: Line, content: Content, tmp_path: Path
) -> None:
    """At most 1 MiB is sent again, in either direction, and what arrives is right."""
    check_parts(hub, site, content, PARTS, tmp_path / "target")


def test_an_upload_cut_after_its_last_byte_is_finished(
    hub: HubProcess, site: tuple[SftpExchange, str], line: Line, tmp_path: Path
) -> None:
    """CLOSE, stat, sha256sum, rename, and the answers to them: whichever gets lost, the next try finds out."""
    content = make_content(tmp_path, 100)
    put(site, content, WatchThatBreaks(lambda: line.break_after(1 << 40)))
    needed, num_cut = line.num_bytes, 0
    site[0].remove(tensor_path(site[1], content.sha256))
    for cut in range(100, needed, 250):
        kind = failure_of(lambda cut=cut: put(site, content, WatchThatBreaks(lambda: line.break_after(cut))))
        assert kind in (*BROKEN, None), cut
        num_cut += kind is not None
        resume_and_check(hub, site, line, content)
    assert num_cut >= 6


def test_a_download_cut_at_any_byte_is_resumed(
    site: tuple[SftpExchange, str], line: Line, content: Content, tmp_path: Path
) -> None:
    put(site, content, Watch())
    target, part = tmp_path / "target", tmp_path / "target.part"
    for cut in CUTS:
        with pytest.raises(ExchangeError) as caught:
            get(site, content, target, WatchThatBreaks(lambda cut=cut: line.break_after(cut)))
        assert caught.value.kind in BROKEN, cut
        assert part.exists(), cut
        resume_and_check_download(site, line, content, target)


def test_a_resumed_transfer_moves_only_what_is_missing(
    site: tuple[SftpExchange, str], line: Line, tmp_path: Path
) -> None:
    """6 MiB, cut after 5. An upload has 1 1/4 MiB in flight and goes back 1 MiB; a download loses its 2 MiB window."""
    content, target = make_content(tmp_path, 6 * MIB), tmp_path / "target"
    for move in (partial(put, site, content), partial(get, site, content, target)):
        watch = WatchThatBreaks(lambda: line.break_after(5 * MIB))
        with pytest.raises(ExchangeError):
            move(watch)
        assert watch.armed
        line.heal()
        line.break_after(1 << 40)
        move(Watch())
        assert line.num_bytes < 3 * MIB + MIB // 2
        line.heal()
        site[0].close()  # or the next move begins by finding its connection reset, and moves nothing


def test_a_manifest_cut_at_any_byte_is_published_whole_or_not(site: tuple[SftpExchange, str], line: Line) -> None:
    exchange, node_id = site
    path = manifest_path(node_id, "run-1", 1, "ab" * 32)
    exchange.list_own()  # connected: the bytes counted are those of the manifest
    line.break_after(1 << 40)
    exchange.put_manifest(b"0" * 5000, path)
    needed = line.num_bytes
    for number, cut in enumerate(range(500, needed, 2000)):
        raw = str(number).encode() * 5000
        line.break_after(cut)
        with pytest.raises(ExchangeError) as caught:
            exchange.put_manifest(raw, path)
        assert caught.value.kind in BROKEN
        line.heal()
        exchange.put_manifest(raw, path)
        assert exchange.list_own() == (path,)
        exchange.list_own()


@pytest.mark.parametrize("at", [1, MIB])
def test_a_line_that_falls_silent_ends_the_transfer_and_only_it(
    site: tuple[SftpExchange, str], line: Line, content: Content, tmp_path: Path, at: int
) -> None:
    target = tmp_path / "target"
    for move in (partial(put, site, content), partial(get, site, content, target)):
        watch = WatchThatBreaks(lambda: line.break_after(at, Fault.SILENCE))
        site[0]._link.stall_s = 1.0  # only while nothing moves anyway: a busy machine must not look like a silent line
        with pytest.raises(ExchangeError) as caught:
            move(watch)
        assert caught.value.kind in (FailureKind.TIMEOUT, FailureKind.CONNECTION)
        line.heal()
        site[0]._link.stall_s = 30.0
        move(Watch())
    assert target.read_bytes() == content.data


class Slow(Watch):
    """Takes `PAUSE_S` for every piece: there are three at least, also where all acknowledgements come together."""

    PAUSE_S = 0.4
    num_pauses = 0

    def moved(self, done: int, total: int) -> None:
        self.num_pauses += threading.Event().wait(self.PAUSE_S) is False
        super().moved(done, total)


def test_a_slow_line_is_not_a_stalled_one(site: tuple[SftpExchange, str], line: Line, content: Content) -> None:
    """The stall rule counts from the last byte, not from the start: a transfer may take many times `stall_s`."""
    exchange, node_id = site
    exchange._link.stall_s, slow = 0.5, Slow()
    exchange.put_tensors(content.path, node_id, content.sha256, slow)
    assert slow.num_pauses * slow.PAUSE_S > 2 * 0.5


def test_a_slow_download_is_not_a_stalled_one(site: tuple[SftpExchange, str], content: Content, tmp_path: Path) -> None:
    put(site, content, Watch())
    exchange, node_id = site
    exchange._link.stall_s, slow = 0.5, Slow()
    exchange.get_tensors(node_id, content.sha256, len(content), tmp_path / "target", slow)
    assert slow.num_pauses * slow.PAUSE_S > 2 * 0.5


def test_a_cancelled_transfer_does_not_wait_for_a_silent_line(
    hub: HubProcess, new_login: Callable[[], Login], line: Line, content: Content
) -> None:
    """With the stall time of production the test would run into its own timeout."""
    login = new_login()
    exchange = SftpExchange(hub.address(login, port=line.port), login.key, login.node_id)

    class Cancelling(WatchThatBreaks):
        def cancelled(self) -> bool:
            return line.num_bytes >= MIB

    with pytest.raises(Interrupted):
        put((exchange, login.node_id), content, Cancelling(lambda: line.break_after(MIB, Fault.SILENCE)))
    line.heal()
    exchange.close()


def test_a_hub_that_is_killed_and_restarted_in_mid_upload(tmp_path: Path, content: Content) -> None:
    with HubProcess(tmp_path / "hub") as hub:
        login = hub.add("site-1")
        exchange = SftpExchange(hub.address(login), login.key, "site-1")

        class Killing(Watch):
            def moved(self, done: int, total: int) -> None:
                super().moved(done, total)
                if done > MIB and hub.process is not None:
                    hub.process.kill()
                    hub.process.wait()

        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, "site-1", content.sha256, Killing())
        assert caught.value.kind is FailureKind.CONNECTION
        with pytest.raises(ExchangeError) as caught:
            exchange.list_own()
        assert caught.value.kind is FailureKind.CONNECTION  # refused: nobody listens
        hub.start()
        assert exchange.list_own() == (part_path("site-1", content.sha256),)
        watch = Watch()
        exchange.put_tensors(content.path, "site-1", content.sha256, watch)
        assert 0 < watch.start < len(content)
        assert (hub.folder("site-1") / f"{content.sha256}.safetensors").read_bytes() == content.data
        exchange.close()


def test_a_hub_that_freezes_is_noticed_and_forgiven(
    hub: HubProcess, new_login: Callable[[], Login], content: Content
) -> None:
    login = new_login()
    exchange = SftpExchange(hub.address(login), login.key, login.node_id, stall_s=1.0)
    assert hub.process is not None
    process = hub.process

    class Freezing(Watch):
        def moved(self, done: int, total: int) -> None:
            super().moved(done, total)
            process.send_signal(signal.SIGSTOP)

    try:
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, login.node_id, content.sha256, Freezing())
    finally:
        process.send_signal(signal.SIGCONT)
    assert caught.value.kind in (FailureKind.TIMEOUT, FailureKind.CONNECTION)
    exchange._link.stall_s = 30.0
    exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
    assert exchange.list_own() == (tensor_path(login.node_id, content.sha256),)
    exchange.close()


def test_a_full_disk_is_told_and_a_later_try_goes_on(
    hub: HubProcess, new_login: Callable[[], Login], content: Content
) -> None:
    """A real limit of the kernel in the hub's process: no file of it may grow beyond 1.5 MiB."""
    login = new_login()
    exchange = SftpExchange(hub.address(login), login.key, login.node_id)
    hub.limit_files(MIB + MIB // 2)
    try:
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
    finally:
        hub.limit_files(resource.RLIM_INFINITY)
    assert caught.value.kind is FailureKind.SPACE
    assert exchange.list_own() == (part_path(login.node_id, content.sha256),)
    watch = Watch()
    exchange.put_tensors(content.path, login.node_id, content.sha256, watch)
    assert 0 < watch.start <= MIB + MIB // 2  # writes that were in flight may have succeeded behind the failed one
    assert (hub.folder(login.node_id) / f"{content.sha256}.safetensors").read_bytes() == content.data
    assert exchange.list_own() == (tensor_path(login.node_id, content.sha256),)
    exchange.close()


class FailingClose(HubFiles):
    """A disk that finds out only at the end that it has no room."""

    num_failures = 1

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        if self.num_failures:
            self.num_failures -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class LosingWrites(HubFiles):
    """A disk that forgets a block and says nothing: what a server killed in mid-write leaves."""

    num_losses = 1

    def write(self, descriptor: int, data: memoryview, offset: int) -> None:
        if self.num_losses and offset >= MIB:
            self.num_losses -= 1
            return
        super().write(descriptor, data, offset)


def test_a_close_that_fails_publishes_nothing(tmp_path: Path, content: Content) -> None:
    with HubThread(tmp_path / "hub", FailingClose) as hub:
        login = hub.add("site-1")
        exchange = SftpExchange(hub.address(login), login.key, "site-1")
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        assert caught.value.kind is FailureKind.SPACE
        assert exchange.list_own() == (part_path("site-1", content.sha256),)
        exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        assert exchange.list_own() == (tensor_path("site-1", content.sha256),)
        exchange.close()


def test_a_lost_block_is_found_by_the_hash(tmp_path: Path, content: Content) -> None:
    with HubThread(tmp_path / "hub", LosingWrites) as hub:
        login = hub.add("site-1")
        exchange = SftpExchange(hub.address(login), login.key, "site-1")
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        assert caught.value.kind is FailureKind.MISMATCH
        assert exchange.list_own() == ()
        exchange.put_tensors(content.path, "site-1", content.sha256, Watch())
        assert (hub.folder("site-1") / f"{content.sha256}.safetensors").read_bytes() == content.data
        exchange.close()
