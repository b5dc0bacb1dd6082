"""What a transfer may cost, in figures that do not depend on how busy the machine is."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hsl_model.checkpoint import sha256_file
from hsl_model.protocol.clock import ManualClock
from node_agent.exchange import open_exchange
from node_agent.exchange.pace import Pace
from tests.embedded_hub.helpers import HubProcess, Login
from tests.node_agent.exchange.helpers import MIB, Watch, make_content


def num_page_faults(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts page faults as Linux does")
def test_packets_are_not_fetched_from_the_system_one_by_one(
    hub: HubProcess, new_login: Callable[[], Login], tmp_path: Path
) -> None:
    """A fault per page of every packet took three times the CPU: 16 MiB are 4096 pages, each several times."""
    login, content = new_login(), make_content(tmp_path, 16 * MIB)
    exchange = open_exchange(hub.address(login), login.key, login.node_id, Pace(ManualClock()))  # as a hub nearby
    assert hub.process is not None
    counts = []
    for turn in range(2):  # in the first turn both processes grow to what they need
        exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
        before = num_page_faults(hub.process.pid), num_page_faults(os.getpid())
        exchange.get_tensors(login.node_id, content.sha256, len(content), tmp_path / f"target-{turn}", Watch())
        after = num_page_faults(hub.process.pid), num_page_faults(os.getpid())
        counts.append((after[0] - before[0], after[1] - before[1]))
    exchange.close()
    assert max(counts[1]) < 2000, counts


def test_the_memory_of_a_transfer_does_not_grow_with_the_file(
    hub: HubProcess, new_login: Callable[[], Login], tmp_path: Path
) -> None:
    login = new_login()
    exchange = open_exchange(hub.address(login), login.key, login.node_id, Pace(ManualClock()))  # as a hub nearby
    assert hub.process is not None
    processes = psutil.Process(), psutil.Process(hub.process.pid)
    most = [0, 0]

    class Measuring(Watch):
        def moved(self, done: int, total: int) -> None:
            for number, process in enumerate(processes):
                most[number] = max(most[number], process.memory_info().rss)

    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(100 * MIB)
    before = [process.memory_info().rss for process in processes]
    sha256 = sha256_file(path)
    exchange.put_tensors(path, login.node_id, sha256, Measuring())
    exchange.get_tensors(login.node_id, sha256, 100 * MIB, tmp_path / "target", Measuring())
    exchange.close()
    for number in range(2):
        assert most[number] - before[number] < 40 * MIB
