"""The line to a real SFTPGo breaks at byte k, of either direction, in the middle of everything a transfer does.

    the k-th byte of the TCP stream       where the line breaks, exactly; also within the SSH handshake
    k bytes acknowledged by the hub       when it breaks
    k bytes in the part                   what the next try finds, exactly

Every next try finishes with the right bytes, and sends at most 1 MiB of what was there again. The ends of the line see
each other's end or a reset, in turn.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pytest

from hsl_model.protocol.paths import manifest_path, tensor_path
from hsl_model.protocol.retry import TRANSIENT, FailureKind
from node_agent.exchange.base import local_part
from node_agent.exchange.pipeline import SEND_BATCH, WRITE_BLOCK
from tests.faults.conftest import NUM_BYTES
from tests.faults.journeys import Node
from tests.faults.levels import around, levels, stretch
from tests.faults.line import Fault, Line, Way
from tests.node_agent.exchange.helpers import MIB, Content, Watch, make_content
from tests.node_agent.exchange.mending import (
    BROKEN,
    WatchThatBreaks,
    check_parts,
    get,
    put,
    resume_and_check,
    resume_and_check_download,
)
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo
NEVER = 1 << 40
CHUNKS = range(WRITE_BLOCK, NUM_BYTES, WRITE_BLOCK)
BATCHES = range(SEND_BATCH, NUM_BYTES, SEND_BATCH)
PLACES = levels(
    [1, *around((WRITE_BLOCK, *BATCHES), NUM_BYTES), NUM_BYTES], around(CHUNKS, NUM_BYTES), range(1, NUM_BYTES, 1021)
)
ENDS = (Fault.CUT, Fault.RESET)


def site_of(node: Node) -> tuple[object, str]:
    return node.exchange, node.node_id


@pytest.mark.parametrize("places", PLACES)
def test_an_upload_cut_at_byte_k(
    node: Node, line: Line, content: Content, counted: Counter[str], places: Sequence[int]
) -> None:
    for k, fault in zip(places, cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda k=k, fault=fault: line.break_after(k, fault, Way.UP))
        error = node.once(lambda _, watch=watch: put(site_of(node), content, watch))
        assert error is not None, k
        assert error.kind in BROKEN, k
        assert line.moved[Way.UP] == k
        resume_and_check(node.hub, site_of(node), line, content)
        counted["cut at byte k of an upload"] += 1


@pytest.mark.parametrize("places", PLACES)
def test_a_download_cut_at_byte_k(
    node: Node, line: Line, content: Content, counted: Counter[str], tmp_path: Path, places: Sequence[int]
) -> None:
    put(site_of(node), content, Watch())
    for k, fault in zip(places, cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda k=k, fault=fault: line.break_after(k, fault, Way.DOWN))
        error = node.once(lambda _, watch=watch: get(site_of(node), content, tmp_path / "target", watch))
        assert error is not None, k
        assert error.kind in BROKEN, k
        resume_and_check_download(site_of(node), line, content, tmp_path / "target")
        counted["cut at byte k of a download"] += 1


SPREAD = [
    pytest.param(8, id="some"),
    pytest.param(60, id="many", marks=pytest.mark.faults),
    pytest.param(1500, id="every", marks=pytest.mark.long),
]


@pytest.mark.parametrize("num_places", SPREAD)
def test_the_answers_to_an_upload_cut_at_byte_k(
    node: Node, line: Line, content: Content, counted: Counter[str], num_places: int
) -> None:
    """Among them those to CLOSE, stat, sha256sum and rename: the next try finds out what was done."""
    put(site_of(node), content, WatchThatBreaks(lambda: line.break_after(NEVER)))
    num_bytes = line.moved[Way.DOWN]
    node.exchange.remove(tensor_path(node.node_id, content.sha256))
    for k, fault in zip(stretch(num_bytes - 200, num_places), cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda k=k, fault=fault: line.break_after(k, fault, Way.DOWN))
        error = node.once(lambda _, watch=watch: put(site_of(node), content, watch))
        assert error is None or error.kind in BROKEN, k
        node.drop()  # a break may come a moment after the last answer
        resume_and_check(node.hub, site_of(node), line, content)
        counted["cut at byte k of an upload's answers"] += error is not None


@pytest.mark.parametrize("num_places", SPREAD)
def test_the_requests_of_a_download_cut_at_byte_k(
    node: Node, line: Line, content: Content, counted: Counter[str], tmp_path: Path, num_places: int
) -> None:
    put(site_of(node), content, Watch())
    target = tmp_path / "target"
    get(site_of(node), content, target, WatchThatBreaks(lambda: line.break_after(NEVER)))
    num_bytes = line.moved[Way.UP]
    target.unlink()
    for k, fault in zip(stretch(num_bytes // 2, num_places), cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda k=k, fault=fault: line.break_after(k, fault, Way.UP))
        error = node.once(lambda _, watch=watch: get(site_of(node), content, target, watch))
        assert error is not None, k
        assert error.kind in BROKEN, k
        resume_and_check_download(site_of(node), line, content, target)
        counted["cut at byte k of a download's requests"] += 1


@pytest.mark.parametrize("num_places", SPREAD)
@pytest.mark.parametrize("way", Way)
def test_the_end_of_an_upload_cut_at_byte_k(
    node: Node, line: Line, tmp_path: Path, counted: Counter[str], way: Way, num_places: int
) -> None:
    """100 bytes: nearly everything on the line is CLOSE, stat, sha256sum, rename, and what is answered."""
    small = make_content(tmp_path, 100)
    put(site_of(node), small, WatchThatBreaks(lambda: line.break_after(NEVER)))
    num_bytes, num_broken = line.moved[way], 0
    node.exchange.remove(tensor_path(node.node_id, small.sha256))
    for k, fault in zip(stretch(num_bytes - 100, num_places), cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda k=k, fault=fault: line.break_after(k, fault, way))
        error = node.once(lambda _, watch=watch: put(site_of(node), small, watch))
        assert error is None or error.kind in BROKEN, k
        num_broken += error is not None
        node.drop()  # a break may come a moment after the last answer
        resume_and_check(node.hub, site_of(node), line, small)
    assert num_broken >= num_places // 2
    counted["cut within an upload's last steps"] += num_broken


@pytest.mark.parametrize("num_places", SPREAD)
@pytest.mark.parametrize("way", Way)
def test_a_handshake_cut_at_byte_k(node: Node, line: Line, counted: Counter[str], way: Way, num_places: int) -> None:
    """Never taken for a wrong key or a wrong hub, which would end the node's round for good."""
    line.break_after(NEVER)
    node.exchange.list_own()
    num_bytes = line.moved[way]
    for k, fault in zip(stretch(num_bytes - 300, num_places), cycle(ENDS), strict=False):
        node.drop()
        line.break_after(k, fault, way)
        error = node.once(lambda exchange: exchange.list_own())
        assert error is not None, k
        assert error.kind in (*BROKEN, FailureKind.TIMEOUT), k
        assert TRANSIENT[error.kind]
        line.heal()
        assert node.once(lambda exchange: exchange.list_own()) is None, k
        counted["cut within a handshake"] += 1


@pytest.mark.parametrize("num_places", SPREAD)
def test_a_manifest_cut_at_byte_k_is_there_or_not(
    node: Node, line: Line, counted: Counter[str], num_places: int
) -> None:
    """Readers see the old one or the new one, never a half: its name comes with one rename."""
    path = manifest_path(node.node_id, "run-1", 1, "ab" * 32)
    on_disk = node.hub.folder(node.node_id) / path.rsplit("/", 1)[1]
    raw = old = b"0" * 5000
    node.exchange.put_manifest(old, path)
    node.exchange.list_own()
    line.break_after(NEVER)
    node.exchange.put_manifest(b"x" * 5000, path)
    num_bytes = line.moved[Way.UP]
    old = b"x" * 5000
    for number, k in enumerate(stretch(num_bytes - 100, num_places)):
        raw = str(number % 10).encode() * 5000
        line.break_after(k, ENDS[number % 2], Way.UP)
        error = node.once(lambda exchange, raw=raw: exchange.put_manifest(raw, path))
        if error is None:  # the line widens its windows now and then: this one took fewer bytes than the first
            assert line.moved[Way.UP] < k <= num_bytes - 100, k
        else:
            assert error.kind in BROKEN, k
        assert on_disk.read_bytes() in (old, raw), k
        line.heal()
        node.exchange.put_manifest(raw, path)
        assert on_disk.read_bytes() == raw
        assert node.exchange.list_own() == (path,)
        old = raw
        counted["cut within a manifest"] += 1


ACKNOWLEDGED = levels([WRITE_BLOCK, MIB + 1], list(CHUNKS))


@pytest.mark.parametrize("places", ACKNOWLEDGED)
@pytest.mark.parametrize("way", Way)
def test_a_line_that_breaks_when_k_bytes_are_acknowledged(
    node: Node, line: Line, content: Content, counted: Counter[str], tmp_path: Path, way: Way, places: Sequence[int]
) -> None:
    """The other meaning of byte k: what the hub, or this site, has for certain is never moved again but for 1 MiB."""
    target = tmp_path / "target"
    if way is Way.DOWN:
        put(site_of(node), content, Watch())
    for k, fault in zip(places, cycle(ENDS), strict=False):
        watch = WatchThatBreaks(lambda fault=fault: line.break_after(0, fault), at=k)
        if way is Way.UP:
            error = node.once(lambda _, watch=watch: put(site_of(node), content, watch))
            part = node.hub.folder(node.node_id) / f"{content.sha256}.part"
        else:
            error = node.once(lambda _, watch=watch: get(site_of(node), content, target, watch))
            part = local_part(target)
        if error is None:  # the rest was on its way already
            assert k > len(content) - 2 * MIB
        else:
            assert error.kind in BROKEN, k
            assert part.stat().st_size >= k - WRITE_BLOCK
            counted["cut at k acknowledged bytes"] += 1
        if way is Way.UP:
            resume_and_check(node.hub, site_of(node), line, content)
        else:
            target.unlink(missing_ok=True)
            resume_and_check_download(site_of(node), line, content, target)


SIZES = levels(
    [0, *around((MIB,), NUM_BYTES), NUM_BYTES],
    around((WRITE_BLOCK, *BATCHES, NUM_BYTES - 1), NUM_BYTES),
    around(CHUNKS, NUM_BYTES),
)


@pytest.mark.parametrize("places", SIZES)
def test_a_part_of_exactly_k_bytes_is_gone_on_with(
    node: Node, sftpgo: SftpgoProcess, content: Content, counted: Counter[str], tmp_path: Path, places: Sequence[int]
) -> None:
    check_parts(sftpgo, site_of(node), content, places, tmp_path / "target")
    counted["part of exactly k bytes, on the hub and here"] += 2 * len(places)
