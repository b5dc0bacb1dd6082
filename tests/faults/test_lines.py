"""Lines to a real SFTPGo that are stalled, reset, half-open, refused, slow or far: toxiproxy's, and our own.

Waits between tries are virtual (`journeys.py`); a stall is noticed after one second here instead of thirty, and only
while the line is broken: a busy machine must not look like a silent line.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsl_model.protocol.paths import tensor_path
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange import link
from node_agent.exchange.base import local_part
from tests.faults.journeys import Node
from tests.faults.levels import stretch
from tests.faults.line import Fault, Line, Way
from tests.faults.toxiproxy import BOTH, ToxicLine, Toxiproxy
from tests.node_agent.exchange.helpers import MIB, Content, Watch, make_content
from tests.node_agent.exchange.mending import WatchThatBreaks, get, put
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo
GONE = (FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.LIMIT)
FOUR_MBIT_S = 500_000  # bytes a second
ROUND_TRIP_MS = 300


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Much more than what is under way at once: a line that breaks early breaks a transfer."""
    return make_content(tmp_path_factory.mktemp("content"), 8 * MIB)


@pytest.fixture
def toxic(toxiproxy: Toxiproxy, sftpgo: SftpgoProcess) -> ToxicLine:
    return toxiproxy.line(sftpgo.port)


class Transfer:
    """An upload or a download of one file over a line, tried until it is done; `start`: where the last try began."""

    def __init__(self, node: Node, content: Content, target: Path, way: Way) -> None:
        self.node, self.content, self.target, self.way = node, content, target, way
        self.start = 0

    def move(self, watch: Watch) -> None:
        site = self.node.exchange, self.node.node_id
        if self.way is Way.UP:
            put(site, self.content, watch)
        else:
            get(site, self.content, self.target, watch)

    def kept(self) -> int:
        folder = self.node.hub.folder(self.node.node_id)
        part = folder / f"{self.content.sha256}.part" if self.way is Way.UP else local_part(self.target)
        return part.stat().st_size if part.exists() else 0

    def is_right(self) -> bool:
        folder = self.node.hub.folder(self.node.node_id)
        found = folder / f"{self.content.sha256}.safetensors" if self.way is Way.UP else self.target
        return found.read_bytes() == self.content.data


@pytest.fixture(params=Way)
def new_transfer(
    request: pytest.FixtureRequest, new_node: Callable[[int], Node], content: Content, tmp_path: Path
) -> Iterator[Callable[[int], Transfer]]:
    """In each direction; its line leads to the given port."""

    def make(port: int) -> Transfer:
        node = new_node(port)
        if request.param is Way.DOWN:
            put((node.exchange, node.node_id), content, Watch())
        return Transfer(node, content, tmp_path / "target", request.param)

    return make


def disturbed(transfer: Transfer, arm: Callable[[], None], heal: Callable[[], None], at: int) -> list[FailureKind]:
    """The line breaks when `at` bytes are done, and is whole again for the second try."""
    first, later, kept = WatchThatBreaks(arm, at), Watch(), 0

    def before(number: int) -> None:
        nonlocal kept
        transfer.node.stall_s = 30.0 if number else 1.0
        if number == 1:
            heal()
            kept = transfer.kept()

    journey = transfer.node.travel(lambda _: transfer.move(later if first.armed else first), before)
    assert journey.done
    assert transfer.is_right()
    assert later.start >= kept - MIB
    return journey.kinds


@pytest.mark.parametrize("at", [0, MIB])
def test_a_line_that_stalls(
    new_transfer: Callable[[int], Transfer], toxic: ToxicLine, counted: Counter[str], at: int
) -> None:
    """Nothing arrives any more in either direction, and both ends stay open."""
    kinds = disturbed(new_transfer(toxic.port), lambda: toxic.add("timeout", timeout=0), toxic.heal, at)
    assert len(kinds) == 1
    assert kinds[0] in GONE
    counted["stall"] += 1


@pytest.mark.parametrize("stream", BOTH)
def test_a_line_that_stalls_in_one_direction(
    new_transfer: Callable[[int], Transfer], toxic: ToxicLine, counted: Counter[str], stream: str
) -> None:
    arm = lambda: toxic.add("timeout", (stream,), timeout=0)  # noqa: E731
    assert disturbed(new_transfer(toxic.port), arm, toxic.heal, MIB)[0] in GONE
    counted["stall in one direction"] += 1


def test_a_line_that_is_reset(new_transfer: Callable[[int], Transfer], toxic: ToxicLine, counted: Counter[str]) -> None:
    arm = lambda: toxic.add("reset_peer", timeout=0)  # noqa: E731
    assert disturbed(new_transfer(toxic.port), arm, toxic.heal, MIB)[0] in GONE
    counted["reset"] += 1


def test_a_line_whose_other_end_vanished(
    new_transfer: Callable[[int], Transfer], line: Line, counted: Counter[str]
) -> None:
    """Half-open: no end, no reset, and nobody takes bytes any more."""
    arm = lambda: line.break_after(0, Fault.HALF_OPEN)  # noqa: E731
    assert disturbed(new_transfer(line.port), arm, line.heal, MIB)[0] in GONE
    counted["half-open"] += 1


def test_a_line_that_is_refused(
    new_transfer: Callable[[int], Transfer], toxic: ToxicLine, counted: Counter[str]
) -> None:
    """A firewall's reload: what was open ends, and for some tries nobody answers."""
    transfer = new_transfer(toxic.port)
    watch = WatchThatBreaks(lambda: toxic.switch(on=False), at=MIB)

    def before(number: int) -> None:
        if number == 4:
            toxic.switch(on=True)

    journey = transfer.node.travel(lambda _: transfer.move(watch), before)
    assert journey.done
    assert journey.kinds == [FailureKind.CONNECTION] * 4
    assert transfer.is_right()
    assert 4 * 0.25 < journey.waited_s < 60
    counted["refused"] += 1


SILENT = [
    pytest.param(3, id="some"),
    pytest.param(15, id="many", marks=pytest.mark.faults),
]


@pytest.mark.timeout(300)  # what it guards against is waiting for ever
@pytest.mark.parametrize("num_places", SILENT)
@pytest.mark.parametrize(("fault", "way"), [(Fault.SILENCE, Way.UP), (Fault.HALF_OPEN, Way.DOWN)])
def test_a_hub_that_falls_silent_at_byte_k_of_anything(
    node: Node,
    line: Line,
    tmp_path: Path,
    counted: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
    way: Way,
    num_places: int,
) -> None:
    """From the connection's first byte to the last of an upload: no step waits for ever, none takes it for a refusal.

    Paramiko itself would wait for ever for a handshake's second packet and for the answer to a subsystem or a command.
    """
    small = make_content(tmp_path, 100)
    move = lambda exchange: exchange.put_tensors(small.path, node.node_id, small.sha256, Watch())  # noqa: E731
    line.break_after(1 << 40)
    move(node.exchange)
    num_bytes = line.moved[way]
    for k in stretch(num_bytes - 100, num_places):
        node.exchange.remove(tensor_path(node.node_id, small.sha256))
        node.drop()
        line.heal()
        line.break_after(k, fault, way)
        node.stall_s = 0.5
        with monkeypatch.context() as impatient:
            impatient.setattr(link, "HANDSHAKE_S", 0.5)
            error = node.once(move)
        assert error is not None, k
        assert error.kind in GONE, k
        line.heal()
        node.stall_s = 30.0
        move(node.exchange)
        assert node.exchange.list_own() == (tensor_path(node.node_id, small.sha256),)
        counted["silence at byte k of a connection"] += 1


SLOW_OR_FAR = {
    "4 Mbit/s": ("bandwidth", {"rate": FOUR_MBIT_S // 1000}, 1.8 * MIB / FOUR_MBIT_S),
    "300 ms": ("latency", {"latency": ROUND_TRIP_MS // 2}, 10 * ROUND_TRIP_MS / 1000),
}


@pytest.mark.parametrize("name", SLOW_OR_FAR)
def test_a_slow_or_far_line_is_no_fault(
    new_node: Callable[[int], Node], toxic: ToxicLine, tmp_path: Path, counted: Counter[str], name: str
) -> None:
    """Done at the first try, with the stall time of production."""
    node, small = new_node(toxic.port), make_content(tmp_path, MIB + 1)
    kind, attributes, at_least_s = SLOW_OR_FAR[name]
    toxic.add(kind, **attributes)
    began = time.monotonic()
    for way in Way:
        transfer = Transfer(node, small, tmp_path / "target", way)
        assert node.travel(lambda _, transfer=transfer: transfer.move(Watch())).kinds == []
        assert transfer.is_right()
        counted[name] += 1
    assert time.monotonic() - began > at_least_s, "the line was as ever"


@pytest.mark.faults
def test_a_slow_and_far_line_that_is_cut_again_and_again(
    new_transfer: Callable[[int], Transfer], toxic: ToxicLine, counted: Counter[str]
) -> None:
    """A VPN over a 4 Mbit/s line that ends every 700 kB: the transfer still gets on, and ends."""
    transfer = new_transfer(toxic.port)
    toxic.add("bandwidth", rate=FOUR_MBIT_S // 1000)
    toxic.add("latency", latency=ROUND_TRIP_MS // 2)
    sent = "upstream" if transfer.way is Way.UP else "downstream"
    starts: list[int] = []

    def before(number: int) -> None:
        if number < 3:
            toxic.heal()
            toxic.add("bandwidth", rate=FOUR_MBIT_S // 1000)
            toxic.add("latency", latency=ROUND_TRIP_MS // 2)
            toxic.add("limit_data", (sent,), bytes=1_400_000)
        elif number == 3:
            toxic.heal()

    def move(_: object) -> None:
        watch = Watch()
        try:
            transfer.move(watch)
        finally:
            starts.append(watch.start if watch.moves else -1)

    journey = transfer.node.travel(move, before)
    assert journey.done
    assert transfer.is_right()
    assert set(journey.kinds) <= set(GONE)
    assert journey.kinds, "the line was not cut"
    known = [start for start in starts if start >= 0]
    assert known == sorted(known), "a try began before an earlier one"
    counted["slow, far and cut"] += len(journey.kinds)
