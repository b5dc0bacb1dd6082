"""The line between a node and the coordinator breaks, stalls or is slow, at every kind of message.

One node's every message meets all faults, one after the other, before it arrives whole:

    request   cut or reset at byte k       the coordinator never has a whole message, and does nothing
    reply     cut or reset at byte k       it has done it, and nobody was told; the same message again is answered again
    silence, vanished                      the node notices after its timeout (shortened here)

Afterwards ledger, rounds and answers are those of a conversation that nothing disturbed.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from coordinator.app import create_app
from hsl_model.protocol import transport
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.manifest import canonical_json
from hsl_model.protocol.messages import DesiredRequest, DesiredState
from hsl_model.protocol.retry import TRANSIENT, FailureKind
from hsl_model.protocol.states import NodePhase
from hsl_model.protocol.transport import API
from node_agent.coordinator_client import Boot, CoordinatorClient, CoordinatorError
from node_agent.egress import EgressLedger
from node_agent.journal import Journal
from tests.coordinator.conftest import settings_for
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance, Keys, NodeSpeaker
from tests.coordinator.rounds.sites import NODES, Federation, Site
from tests.embedded_hub.helpers import free_port, wait_until
from tests.faults.line import Fault, Line, Way
from tests.faults.toxiproxy import Toxiproxy

VICTIM = NODES[0]
PATIENT, IMPATIENT = httpx.Timeout(60.0), httpx.Timeout(0.15)
GONE = (FailureKind.CONNECTION, FailureKind.TIMEOUT)
SERVED_AS = "127.0.0.1"


@dataclass(frozen=True)
class Break:
    fault: Fault
    way: Way
    byte: int  # negative: from the end of the body

    @property
    def is_silent(self) -> bool:
        return self.fault in (Fault.SILENCE, Fault.HALF_OPEN)

    def __str__(self) -> str:
        return f"{'reply' if self.way is Way.DOWN else 'request'} {self.fault.name.lower()}"


SOME = (
    Break(Fault.CUT, Way.UP, 1),
    Break(Fault.RESET, Way.UP, -1),
    Break(Fault.CUT, Way.DOWN, 1),
    Break(Fault.RESET, Way.DOWN, 30),
    Break(Fault.HALF_OPEN, Way.DOWN, 1),
)
MANY = tuple(
    Break(fault, way, byte)
    for fault in Fault
    for way, places in ((Way.UP, (0, 1, 60, 250, -2, -1)), (Way.DOWN, (1, 12, 60, 100)))
    for byte in places
)


class Coordinator:
    """The application behind a real socket, with a clock that stands still and a hub in memory."""

    def __init__(self, database_url: str) -> None:
        self.app = create_app(settings_for(database_url), clock=ManualClock(), hub=MemoryHub())
        self.port = free_port()
        config = uvicorn.Config(self.app, host=SERVED_AS, port=self.port, log_config=None, access_log=False)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="coordinator")

    @contextmanager
    def running(self) -> Iterator["Coordinator"]:
        self._thread.start()
        wait_until(lambda: self._server.started, "the coordinator to listen")
        try:
            yield self
        finally:
            self.app.state.kernel.notifier.close()
            self._server.should_exit = True
            self._thread.join(30)
            assert not self._thread.is_alive()

    @contextmanager
    def alliance(self) -> Iterator[Alliance]:
        """Spoken to directly."""
        kernel = self.app.state.kernel
        with httpx.Client(base_url=f"http://{SERVED_AS}:{self.port}", timeout=PATIENT, trust_env=False) as http:
            yield Alliance(http, kernel, kernel.clock, kernel.hub)


class Disturbed:
    """A node's speaker whose every message meets `breaks` first. As much of `NodeSpeaker` as `Site` uses."""

    def __init__(self, speaker: NodeSpeaker, line: Line, breaks: tuple[Break, ...], ledger: EgressLedger) -> None:
        self.node_id, self.signing_key = speaker.node_id, speaker.signing_key
        self.met: Counter[str] = Counter()
        self._line, self._breaks = line, breaks
        boot = Boot(speaker.boot_number, speaker.boot_id)
        url = f"http://{SERVED_AS}:{line.port}"
        self._client = CoordinatorClient(url, ledger, token=lambda: speaker.token, boot=boot)

    def close(self) -> None:
        self._client.close()

    def post(self, path: str, body: Any = None) -> httpx.Response:
        raw = canonical_json(body) if body is not None else b""
        for one in self._breaks:
            self._line.break_after(max(0, one.byte if one.byte >= 0 else len(raw) + one.byte), one.fault, one.way)
            error = self._failure(path, raw, IMPATIENT if one.is_silent else PATIENT)
            self._line.heal()
            assert error is not None, (path, one)
            assert error.kind in GONE, (path, one, error.kind)
            assert TRANSIENT[error.kind]
            assert error.sentence().endswith("?")
            self.met[f"{one}: {transport_kind(path)}"] += 1
        return self._client._send(path, raw, PATIENT)

    def _failure(self, path: str, raw: bytes, timeout: httpx.Timeout) -> CoordinatorError | None:
        try:
            self._client._send(path, raw, timeout)
        except CoordinatorError as error:
            return error
        return None


def transport_kind(path: str) -> str:
    return path.rsplit("/", 1)[1]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[EgressLedger]:
    journal = Journal(tmp_path / "journal.sqlite", ManualClock())
    yield EgressLedger(journal, ManualClock())
    journal.close()


def conversation(alliance: Alliance, disturb: Callable[[NodeSpeaker], Any]) -> list[Any]:
    """Two rounds of three nodes. What is recorded and what came of it."""
    sites = {}
    for number, node_id in enumerate(NODES):
        speaker = alliance.enrol(node_id)
        sites[node_id] = Site(disturb(speaker) if node_id == VICTIM else speaker, 60 * (number + 1))
    federation = Federation(alliance, sites)
    federation.begin(num_rounds=2)
    answers: list[Any] = []
    for _ in range(3):
        for site, wish in federation.wishes():
            if wish.round_number > 0:
                site.ok(site.heartbeat(NodePhase.TRAINING, wish))
                site.ok(site.uploading(wish, 100))
            if wish.round_number > 0 or wish.is_initialiser:
                answers.append(site.ok(site.announce(wish)).json())
        for site, wish in federation.wishes():
            site.ok(site.fusion(wish, validation=None))
            site.ok(site.fusion(wish))
    assert federation.run.status == "completed"
    return named_by_order([recorded(alliance), answers, *(shown(federation, number) for number in range(3))])


def named_by_order(found: list[Any]) -> list[Any]:
    """Digests and ids hold the run's own, which is drawn: each is called by its first appearance."""
    names: dict[str, str] = {}
    text = re.sub(
        r"run-[0-9a-f]{8}|[0-9a-f]{64}", lambda word: names.setdefault(word[0], f"#{len(names)}"), json.dumps(found)
    )
    made: list[Any] = json.loads(text)
    return made


def recorded(alliance: Alliance) -> list[Any]:
    items = alliance.admin.get(f"{API}/events", limit=500).json()["items"]
    return [
        (one["kind"], one["actor"], one["round_number"], one["node_id"], sorted(one["data"].items()))
        for one in items
        if one["kind"].split(".")[0] in ("run", "round", "participation", "member")
    ]


def shown(federation: Federation, number: int) -> list[Any]:
    found = federation.round(number)
    return [found.status, found.mean_auc, found.fused_digest is not None, sorted(federation.statuses(number).items())]


def play(database_url: str) -> list[Any]:
    """With nothing in between."""
    coordinator = Coordinator(database_url)
    with coordinator.running(), coordinator.alliance() as alliance:
        return conversation(alliance, lambda speaker: speaker)


@pytest.mark.parametrize(
    "breaks", [pytest.param(SOME, id="some"), pytest.param(MANY, id="many", marks=pytest.mark.faults)]
)
def test_every_message_meets_every_fault_and_nothing_changes(
    new_database: Callable[[], str], ledger: EgressLedger, counted: Counter[str], breaks: tuple[Break, ...]
) -> None:
    undisturbed = play(new_database())
    made: list[Disturbed] = []
    coordinator = Coordinator(new_database())
    with coordinator.running(), coordinator.alliance() as alliance, Line(coordinator.port) as line:

        def disturb(speaker: NodeSpeaker) -> Disturbed:
            made.append(Disturbed(speaker, line, breaks, ledger))
            return made[-1]

        assert conversation(alliance, disturb) == undisturbed
        made[0].close()
    kinds = {name.split(": ")[1] for name in made[0].met}
    assert kinds == {"accept", "desired", "heartbeat", "announce", "fusion"}
    for name, number in made[0].met.items():
        counted[f"coordinator's line: {name.split(': ')[0]}"] += number


@pytest.mark.faults
def test_a_slow_and_far_line_changes_nothing(
    new_database: Callable[[], str], toxiproxy: Toxiproxy, counted: Counter[str]
) -> None:
    """4 Mbit/s and 300 ms: no message is lost, none is sent twice."""
    undisturbed = play(new_database())
    coordinator = Coordinator(new_database())
    toxic = toxiproxy.line(coordinator.port)
    toxic.add("bandwidth", rate=500)
    toxic.add("latency", latency=150)
    slow = httpx.Client(base_url=f"http://{SERVED_AS}:{toxic.port}", timeout=PATIENT, trust_env=False)

    def disturb(speaker: NodeSpeaker) -> NodeSpeaker:
        speaker.http = slow
        return speaker

    with coordinator.running(), coordinator.alliance() as alliance, slow:
        assert conversation(alliance, disturb) == undisturbed
    counted["coordinator's line: 4 Mbit/s and 300 ms"] += 1


@pytest.mark.parametrize("fault", Fault)
def test_a_long_poll_that_breaks_while_it_waits_is_asked_again(
    new_database: Callable[[], str], ledger: EgressLedger, counted: Counter[str], fault: Fault
) -> None:
    """What changed meanwhile is told by the next one: nothing was pushed, so nothing was lost."""
    coordinator = Coordinator(new_database())
    with coordinator.running(), coordinator.alliance() as alliance, Line(coordinator.port) as line:
        federation = Federation(alliance, {node_id: Site(alliance.enrol(node_id)) for node_id in NODES})
        federation.begin().to_round(1)
        speaker = Disturbed(federation[VICTIM].speaker, line, (), ledger)
        known = DesiredState.model_validate_json(speaker.post(transport.DESIRED, DesiredRequest(wait_s=0)).content)
        request = DesiredRequest(known_version=known.version, wait_s=0.5 if fault is Fault.SILENCE else 5.0)
        line.break_after(1, fault, Way.DOWN)
        waiting = threading.Thread(target=federation.announce_all)  # round 1's plan freezes while the poll waits
        waiting.start()
        error = speaker._failure(transport.DESIRED, canonical_json(request), httpx.Timeout(2.0))
        waiting.join()
        assert error is not None
        assert error.kind in GONE
        line.heal()
        told = DesiredState.model_validate_json(speaker.post(transport.DESIRED, request).content)
        assert told.version != known.version
        assert told.assignment is not None
        assert told.assignment.plan is not None
        speaker.close()
    counted[f"coordinator's line: long poll {fault.name.lower()}"] += 1


@pytest.mark.parametrize("one", SOME, ids=str)
def test_an_enrolment_whose_line_breaks_is_asked_again(
    new_database: Callable[[], str], ledger: EgressLedger, counted: Counter[str], one: Break
) -> None:
    """The code counts once; the same agent gets the same node, though nobody told it the first time."""
    coordinator = Coordinator(new_database())
    with coordinator.running(), coordinator.alliance() as alliance, Line(coordinator.port) as line:
        keys, code = Keys(), alliance.add(VICTIM)
        client = CoordinatorClient(f"http://{SERVED_AS}:{line.port}", ledger)
        raw = canonical_json(keys.request(code))
        line.break_after(one.byte if one.byte >= 0 else len(raw) + one.byte, one.fault, one.way)
        with pytest.raises(CoordinatorError) as caught:
            client._send(transport.ENROL, raw, IMPATIENT if one.is_silent else PATIENT)
        assert caught.value.kind in GONE
        line.heal()
        reply = client.enrol(keys.request(code))
        assert reply.node_id == VICTIM
        client.close()
        speaker = NodeSpeaker(alliance.http, VICTIM, reply.token, keys.signing)
        assert Site(speaker).desired() is not None
    counted[f"coordinator's line: {one}"] += 1
