"""The coordinator as a process: it starts, stays small, logs JSON without secrets, and stops at once."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.messages import DesiredRequest, DesiredState, EnrolReply
from hsl_model.protocol.transport import API, DESIRED, ENROL
from tests.coordinator.helpers import ADMIN_TOKEN, HUB_TOKEN, PROTOCOL, Keys, NodeSpeaker, Speaker

MAX_RESIDENT_BYTES = 200e6
MAX_STOP_S = 10.0  # on a machine that does much else; that the poll was answered shows that nothing was cut off
START_TIMEOUT_S = 120.0  # of a machine that does much else
PROGRAM = """
from coordinator.main import serve
from coordinator.settings import CoordinatorSettings
from tests.coordinator.fakes import MemoryHub
serve(CoordinatorSettings(), hub=MemoryHub())
"""


@dataclass
class Running:
    workdir: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    secrets: list[str] = field(default_factory=lambda: [ADMIN_TOKEN, HUB_TOKEN])

    def __post_init__(self) -> None:
        (self.port,) = free_ports(1)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self.admin = Speaker(self.http, {"Authorization": f"Bearer {ADMIN_TOKEN}"})

    @property
    def log(self) -> Path:
        return self.workdir / "log"

    def start(self) -> psutil.Process:
        environment = {
            **os.environ,
            "HSL_COORDINATOR_ADMIN_TOKEN": ADMIN_TOKEN,
            "HSL_COORDINATOR_HUB_ADMIN_TOKEN": HUB_TOKEN,
            "HSL_COORDINATOR_HUB_ADMIN_URL": "http://127.0.0.1:9",
            "HSL_COORDINATOR_PORT": str(self.port),
            "HSL_COORDINATOR_WORKDIR": str(self.workdir),
            "HSL_COORDINATOR_TICK_INTERVAL_S": "0.05",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=log)
        clock, wake = SystemClock(), threading.Condition()
        deadline = clock.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert clock.monotonic() < deadline, self.log.read_text()
            with wake:
                clock.wait(wake, 0.05)
        return psutil.Process(self.process.pid)

    def _answers(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def enrol(self, node_id: str) -> NodeSpeaker:
        keys = Keys()
        code = self.admin.post(f"{API}/nodes", {"node_id": node_id}).json()["code"]
        enrolled = Speaker(self.http, PROTOCOL).post(ENROL, keys.request(code))
        reply = EnrolReply.model_validate_json(enrolled.content)
        self.secrets += [code, reply.token]
        return NodeSpeaker(self.http, node_id, reply.token, keys.signing)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.http.close()
    if running.process is not None:
        running.process.kill()
        running.process.wait()


def test_the_life_of_a_process(coordinator: Running) -> None:
    """One process for many facts, because a start takes seconds."""
    started = coordinator.start()
    node = coordinator.enrol("alpha")
    state = DesiredState.model_validate_json(node.post(DESIRED, DesiredRequest(wait_s=0)).content)
    assert started.memory_info().rss < MAX_RESIDENT_BYTES

    started.kill()  # as a power cut: what was answered is there
    coordinator.process.wait()  # type: ignore[union-attr]
    started = coordinator.start()
    assert coordinator.admin.get(f"{API}/nodes/alpha").json()["status"] == "enrolled"

    replies: list[httpx.Response] = []
    poll = DesiredRequest(known_version=state.version, wait_s=55)
    waiting = threading.Thread(target=lambda: replies.append(node.post(DESIRED, poll)))
    waiting.start()
    waiting.join(timeout=0.5)
    assert waiting.is_alive(), "nothing to tell, so the poll waits"
    clock = SystemClock()
    asked_at = clock.monotonic()
    started.send_signal(signal.SIGTERM)
    assert coordinator.process.wait() == 0  # type: ignore[union-attr]
    assert clock.monotonic() - asked_at < MAX_STOP_S
    waiting.join()
    assert DesiredState.model_validate_json(replies[0].content) == state, "answered, not cut off"

    _logs_are_json_without_secrets(coordinator)
    assert (coordinator.workdir / "coordinator.db").stat().st_mode & 0o077 == 0, "nobody else reads the database"


def _logs_are_json_without_secrets(coordinator: Running) -> None:
    text = coordinator.log.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    requests = [entry for entry in entries if entry["event"] == "request"]
    assert {"timestamp", "level", "request_id", "method", "path", "status", "duration_ms"} <= set(requests[0])
    for secret in coordinator.secrets:
        assert secret not in text
    assert not [entry for entry in entries if entry["level"] in ("error", "critical")]
