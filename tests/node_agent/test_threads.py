"""Poller and heartbeat: what they say, when they say it again, and what they make of silence."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from hsl_model.protocol.clock import ManualClock, SystemClock
from hsl_model.protocol.messages import DesiredState
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase
from node_agent.coordinator_client import CoordinatorClient
from node_agent.egress import EgressLedger
from node_agent.errors import Failure
from node_agent.facts import RoundFacts
from node_agent.heartbeat import HeartbeatThread
from node_agent.journal import Journal
from node_agent.mailbox import Mailbox
from node_agent.poller import Poller
from tests.node_agent.alliance import answer, make_config, problem, until
from tests.node_agent.helpers import FAST

FACTS = RoundFacts(run_id="run-1", round_number=3, config=make_config())


class Line:
    """A coordinator at the other end of the line, answered by a function of (path, number of the request)."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.sqlite", ManualClock())
        self.mailbox = Mailbox()
        self.bodies: list[bytes] = []
        self.reply: Callable[[int], httpx.Response] = lambda number: httpx.Response(204)
        self.client = CoordinatorClient(
            "http://coordinator",
            EgressLedger(self.journal, ManualClock()),
            http_transport=httpx.MockTransport(self._handle),
        )
        self.threads: list[threading.Thread] = []

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(request.content)
        return self.reply(len(self.bodies))

    def run(self, thread: threading.Thread) -> None:
        self.threads.append(thread)
        thread.start()

    def wait(self, condition: Callable[[], object]) -> None:
        assert until(self.mailbox.changed, condition, 10.0)

    def poll(self) -> None:
        self.run(Poller(self.client, self.mailbox, SystemClock(), 0.02, FAST))

    def beat(self, interval_s: float = 30.0) -> None:
        self.run(HeartbeatThread(self.client, self.journal, self.mailbox, SystemClock(), interval_s))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.mailbox.stop()
    for thread in made.threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    made.journal.close()


def desired(number: int) -> httpx.Response:
    return answer(DesiredState(version=f"v{min(number, 3)}"))


def test_the_newest_desired_state_lands_in_the_mailbox_and_is_named_in_the_next_request(line: Line) -> None:
    line.reply = desired
    line.poll()
    line.wait(lambda: line.mailbox.desired is not None and line.mailbox.desired.version == "v3")
    line.wait(lambda: b'"known_version":"v3"' in line.bodies[-1])
    assert b'"known_version":null' in line.bodies[0]


def test_what_is_missing_is_asked_for_with_every_poll(line: Line) -> None:
    line.reply = lambda number: answer(DesiredState(version=f"v{number}", poll_again_in_s=0.01))
    line.mailbox.missing = frozenset({"a" * 64})
    line.poll()
    line.wait(lambda: len(line.bodies) >= 3)
    assert all(b"a" * 64 in body for body in line.bodies)


@pytest.mark.parametrize(
    ("refusal", "code", "revoked"),
    [
        (problem(409, "duplicate_instance"), "duplicate_instance", False),
        (problem(426, "protocol_version"), "protocol_version", False),
        (problem(401, "node_token_invalid"), "node_token_invalid", False),
        (problem(403, "node_revoked"), "node_revoked", True),
        (httpx.Response(502, text="<html>"), "http_502", False),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_refusal_is_shown_and_asked_again_until_it_is_put_right(
    line: Line, refusal: httpx.Response, code: str, revoked: bool
) -> None:
    line.reply = lambda number: refusal if number < 4 else desired(number)
    seen: set[str] = set()

    def note() -> bool:
        if line.mailbox.contact_failure:
            seen.add(line.mailbox.contact_failure.code)
            assert line.mailbox.revoked is revoked
        return line.mailbox.desired is not None

    line.poll()
    line.wait(note)
    assert seen == {code}
    assert (line.mailbox.contact_failure, line.mailbox.revoked) == (None, False)


def test_an_answer_that_comes_too_soon_with_nothing_new_is_not_asked_for_again_at_once(line: Line) -> None:
    line.reply = lambda number: answer(DesiredState(version="v1"))
    line.run(Poller(line.client, line.mailbox, SystemClock(), 25.0, FAST))
    line.wait(lambda: len(line.bodies) == 2)
    with line.mailbox.changed:
        line.mailbox.changed.wait(0.2)
    assert len(line.bodies) == 2


def test_a_new_phase_is_told_at_once_and_progress_only_at_intervals(line: Line) -> None:
    line.beat()
    line.wait(lambda: len(line.bodies) == 1)
    line.journal.move(NodePhase.TRAINING, FACTS)
    line.mailbox.nudge()
    line.wait(lambda: len(line.bodies) == 2)
    assert b'"phase":"training"' in line.bodies[1]
    line.mailbox.nudge()
    with line.mailbox.changed:
        line.mailbox.changed.wait(0.1)
    assert len(line.bodies) == 2


def test_heartbeats_come_at_intervals_and_a_lost_one_is_not_repeated(line: Line) -> None:
    line.reply = lambda number: httpx.Response(500)
    line.beat(interval_s=0.02)
    line.wait(lambda: len(line.bodies) >= 3)


def test_only_a_failed_phase_is_told_as_a_failure(line: Line) -> None:
    line.journal.move(NodePhase.TRAINING, FACTS)
    offline = Failure(FailureKind.CONNECTION, "coordinator_connection", "The line is down.")
    line.journal.postpone(ManualClock().now(), offline, 1)
    line.beat()
    line.wait(lambda: len(line.bodies) == 1)
    assert b'"failure":null' in line.bodies[0]
    line.journal.fail(Failure(FailureKind.REJECTED, "class_missing", "No fracture here."), None)
    line.mailbox.nudge()
    line.wait(lambda: len(line.bodies) == 2)
    assert b"class_missing: No fracture here." in line.bodies[1]
