"""Transfers that the real server interrupts: ended in mid-upload, it leaves zero-filled holes near the end of the part.

What is published after that has the right bytes, always.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.retry import TRANSIENT, FailureKind
from node_agent.exchange.base import ExchangeError
from node_agent.exchange.pace import Pace
from node_agent.exchange.pipeline import SEND_BATCH
from node_agent.exchange.sftp import SftpExchange
from tests.embedded_hub.helpers import Login, names, wait_until
from tests.faults.line import Line
from tests.node_agent.exchange.helpers import MIB, Content, Watch, failure_of, make_content
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo

NUM_BYTES = 4 * MIB + 12_345


@pytest.fixture
def content(tmp_path: Path) -> Content:
    return make_content(tmp_path, NUM_BYTES)


def open_site(hub: SftpgoProcess, login: Login, **address: object) -> SftpExchange:
    return SftpExchange(hub.address(login, **address), login.key, login.node_id, pace=Pace(ManualClock()))


def put(exchange: SftpExchange, login: Login, content: Content, watch: Watch) -> None:
    exchange.put_tensors(content.path, login.node_id, content.sha256, watch)


class Ending(Watch):
    """Ends the server once so many bytes were acknowledged, with the requests behind them in flight."""

    def __init__(self, hub: SftpgoProcess, at: int, number: signal.Signals) -> None:
        super().__init__()
        self._hub, self._at, self._number = hub, at, number
        self.pid = 0

    def moved(self, done: int, total: int) -> None:
        super().moved(done, total)
        if done >= self._at and not self.pid:
            self.pid = self._hub.server_pid
            os.kill(self.pid, self._number)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)], ids=["kill", "term"]
)
def test_a_server_that_ends_in_mid_upload_costs_a_mib_and_no_bit(
    private_sftpgo: SftpgoProcess, content: Content, number: signal.Signals
) -> None:
    """The supervisor brings it back, and retries do the rest. At more than one moment: holes are a matter of luck."""
    hub = private_sftpgo
    for at in (MIB, 3 * MIB):
        login = hub.add(f"site-{at}")
        exchange, watch = open_site(hub, login), Ending(hub, at, number)
        assert failure_of(lambda: put(exchange, login, content, watch)) is FailureKind.CONNECTION  # noqa: B023
        part = hub.folder(login.node_id) / f"{content.sha256}.part"
        wait_until(lambda: again(exchange), "SFTPGo to come back")  # noqa: B023
        kept, after = part.stat().st_size, Watch()
        finish(exchange, login, content, after)
        assert kept - MIB <= after.start < len(content)
        assert names(part.parent) == [f"{content.sha256}.safetensors"]
        assert (part.parent / f"{content.sha256}.safetensors").read_bytes() == content.data
        exchange.close()


def again(exchange: SftpExchange) -> bool:
    return failure_of(exchange.list_own) is None


def finish(exchange: SftpExchange, login: Login, content: Content, watch: Watch) -> None:
    """As the agent does: what is transient is tried again."""
    for _ in range(5):
        try:
            return put(exchange, login, content, watch)
        except ExchangeError as error:
            if not TRANSIENT[error.kind]:
                raise
    raise AssertionError("five times interrupted, by nobody")


@pytest.mark.parametrize(
    ("hole", "first_try"), [(MIB - 32_768, None), (MIB + 32_768, FailureKind.MISMATCH)], ids=["near", "far"]
)
def test_holes_are_written_over_or_found_by_the_hash(
    sftpgo: SftpgoProcess,
    new_node: Callable[[], Login],
    content: Content,
    hole: int,
    first_try: FailureKind | None,
) -> None:
    """32 KiB of zeros so far from the end of a part, as a server stopped in mid-write leaves them."""
    login = new_node()
    exchange, folder = open_site(sftpgo, login), sftpgo.folder(login.node_id)
    data = bytearray(content.data[: 3 * MIB])
    data[len(data) - hole : len(data) - hole + 32_768] = bytes(32_768)
    (folder / f"{content.sha256}.part").write_bytes(data)
    assert failure_of(lambda: put(exchange, login, content, Watch())) is first_try
    if first_try is not None:
        assert names(folder) == [], "nothing wrong is published, and nothing wrong is gone on with"
        put(exchange, login, content, Watch())
    assert (folder / f"{content.sha256}.safetensors").read_bytes() == content.data
    exchange.close()


@pytest.fixture
def line(sftpgo: SftpgoProcess) -> Iterator[Line]:
    with Line(sftpgo.port) as running:
        yield running


def test_a_line_that_breaks_is_gone_on_with_in_both_directions(
    sftpgo: SftpgoProcess, new_node: Callable[[], Login], line: Line, content: Content, tmp_path: Path
) -> None:
    login, target = new_node(), tmp_path / "target"
    exchange = open_site(sftpgo, login, port=line.port)

    class Breaking(Watch):
        def __init__(self, at: int) -> None:
            super().__init__()
            self._at = at

        def moved(self, done: int, total: int) -> None:
            if not self.moves:
                line.break_after(self._at)
            super().moved(done, total)

    def get(watch: Watch) -> None:
        exchange.get_tensors(login.node_id, content.sha256, len(content), target, watch)

    for move in (lambda watch: put(exchange, login, content, watch), get):
        for at in (1, SEND_BATCH - 1, 2 * MIB):
            assert failure_of(lambda: move(Breaking(at))) in (FailureKind.CONNECTION, FailureKind.LIMIT)  # noqa: B023
            line.heal()
        move(Watch())
    assert target.read_bytes() == content.data
    assert (sftpgo.folder(login.node_id) / f"{content.sha256}.safetensors").read_bytes() == content.data
    exchange.close()
