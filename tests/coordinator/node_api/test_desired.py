"""The long poll, and the pure function behind it."""

import json
import threading
from datetime import timedelta

import pytest

from coordinator.node_api.desired import desired_for, told
from coordinator.node_api.snapshot import Loader, Snapshot
from hsl_model.protocol import transport
from hsl_model.protocol.messages import Assignment, DesiredRequest, DesiredState
from hsl_model.protocol.states import NodePhase
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import Federation, Site, enrolled


@pytest.fixture
def federation(sqlite_alliance: Alliance) -> Federation:
    return enrolled(sqlite_alliance)


def snapshot_of(federation: Federation) -> Snapshot:
    kernel = federation.alliance.kernel
    with kernel.snapshot() as session:
        return Loader(kernel.settings).load(session, kernel.clock.now())


def without_durations(state: DesiredState) -> str:
    return state.model_dump_json(exclude={"version": True, "assignment": {"deadline_in_s": True}})


def test_the_version_changes_exactly_when_the_rest_does(federation: Federation) -> None:
    """Over a whole run and all its nodes: one version for each content, one content for each version."""
    by_version: dict[str, str] = {}
    by_content: dict[str, str] = {}

    def look() -> None:
        now = federation.alliance.clock.now()
        snapshot, again = snapshot_of(federation), snapshot_of(federation)
        for node_id in federation.sites:
            for state in (
                desired_for(node_id, snapshot, now),
                desired_for(node_id, again, now),
                desired_for(node_id, snapshot, now + timedelta(seconds=1)),
            ):
                content = without_durations(state)
                assert by_version.setdefault(state.version, content) == content
                assert by_content.setdefault(content, state.version) == state.version

    federation.create(round_deadline_s=600.0, num_rounds=1)
    look()
    for site in federation.sites.values():
        site.accept(federation.run_id)
        look()
    federation.move("start")
    for _ in range(2):
        for site, wish in federation.wishes():
            if wish.round_number > 0 or wish.is_initialiser:
                site.announce(wish)
                look()
        for site, wish in federation.wishes():
            site.fusion(wish)
            look()
    assert len(by_version) > 15


def test_every_field_goes_over_the_wire(federation: Federation) -> None:
    """The answer is put together from pieces, so none may be forgotten."""
    federation.begin().to_fusing(1)
    body = json.loads(told("node-a", snapshot_of(federation), federation.alliance.clock.now()).body())
    assert set(body) == set(DesiredState.model_fields)
    assert set(body["assignment"]) == set(Assignment.model_fields)
    run = snapshot_of(federation).runs[0]
    assert body["assignment"]["plan"] == federation.round().plan.model_dump(mode="json")
    assert body["assignment"]["config"] == run.facts.config.model_dump(mode="json")
    assert [entry["node_id"] for entry in body["roster"]] == list(federation.sites)


def test_a_training_node_is_not_woken_by_what_the_others_do(federation: Federation) -> None:
    federation.begin().to_round(1)
    before = federation["node-c"].desired()
    federation["node-a"].announce(federation["node-a"].assignment())
    federation["node-b"].heartbeat(NodePhase.TRAINING, federation["node-b"].assignment())
    assert federation["node-c"].desired().version == before.version
    wish = federation["node-a"].assignment()
    assert [one.node_id for one in wish.announced] == ["node-a"]
    federation["node-b"].announce(federation["node-b"].assignment())
    assert [one.node_id for one in federation["node-a"].assignment().announced] == ["node-a", "node-b"]


class Poll(threading.Thread):
    """One long poll in the background."""

    def __init__(self, site: Site, wait_s: float = 50.0, missing: tuple[str, ...] = ()) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.request = DesiredRequest(known_version=site.desired().version, wait_s=wait_s, missing=missing)
        self.answer: DesiredState | None = None

    def run(self) -> None:
        reply = self.site.speaker.post(transport.DESIRED, self.request)
        self.answer = DesiredState.model_validate_json(reply.content)

    def result(self) -> DesiredState:
        self.join(timeout=20)
        assert self.answer is not None
        return self.answer


def wait_for_pollers(federation: Federation, count: int) -> None:
    reached = threading.Event()
    for _ in range(2000):
        if federation.alliance.kernel.notifier.num_waiting == count:
            return
        reached.wait(0.01)
    raise AssertionError("the polls do not wait")


def test_waiting_polls_are_answered_when_something_changes(federation: Federation) -> None:
    federation.begin()
    polls = [Poll(site) for site in federation.sites.values()]
    for poll in polls:
        poll.start()
    wait_for_pollers(federation, 3)
    federation.move("pause")
    for poll in polls:
        answer = poll.result()
        assert answer.version != poll.request.known_version
        assert answer.assignment is not None
        assert answer.assignment.run_status == "paused"


def test_what_does_not_concern_a_node_does_not_answer_its_poll(federation: Federation) -> None:
    federation.begin().to_round(1)
    poll = Poll(federation["node-c"])
    poll.start()
    wait_for_pollers(federation, 1)
    federation["node-a"].announce(federation["node-a"].assignment())
    wait_for_pollers(federation, 1)
    assert poll.answer is None
    federation.move("stop")
    assert poll.result().assignment is None


def test_without_a_change_the_same_state_is_answered_after_the_wait(federation: Federation) -> None:
    federation.begin()
    poll = Poll(federation["node-a"], wait_s=0.05)
    poll.start()
    assert poll.result().version == poll.request.known_version


def test_an_unknown_version_is_answered_at_once(federation: Federation) -> None:
    federation.begin()
    reply = federation["node-a"].speaker.post(transport.DESIRED, DesiredRequest(known_version="older", wait_s=50))
    assert DesiredState.model_validate_json(reply.content).assignment is not None


def test_an_agent_that_has_just_started_is_answered_at_once_although_nothing_changes(federation: Federation) -> None:
    federation.begin()
    poll = Poll(federation["node-a"])
    poll.request = DesiredRequest(wait_s=50)
    federation.move("pause")
    assert federation["node-b"].desired().assignment is not None  # the newest snapshot was read for somebody else
    poll.start()
    assert poll.result().assignment is not None


def test_forty_waiting_polls_leave_threads_and_sessions_to_others(federation: Federation) -> None:
    """More polls than the thread pool has threads or the database has connections."""
    federation.begin()
    polls = [Poll(federation["node-a"]) for _ in range(45)]
    for poll in polls:
        poll.start()
    wait_for_pollers(federation, 45)
    assert federation.alliance.kernel.database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert federation.run.status == "running"
    assert federation["node-b"].heartbeat(NodePhase.IDLE).is_success
    federation.move("stop")
    assert all(poll.result().assignment is None for poll in polls)


def test_polling_writes_nothing_but_when_a_node_was_seen(federation: Federation) -> None:
    federation.begin()
    federation["node-a"].desired()
    generation = federation.alliance.kernel.notifier.generation
    for _ in range(3):
        federation.alliance.clock.advance(30)
        federation["node-a"].desired()
    assert federation.alliance.kernel.notifier.generation == generation
    seen = federation.alliance.admin.get(f"{transport.API}/nodes/node-a").json()["last_seen_s"]
    assert seen < 30


def test_a_missing_file_is_remembered_while_it_is_missing(federation: Federation) -> None:
    federation.begin().to_round(1)
    start = federation["node-b"].assignment().start
    assert start is not None
    poll = Poll(federation["node-b"], missing=(start.file_sha256,))
    poll.start()
    answer = poll.result()  # that somebody was asked is a change
    assert answer.assignment is not None
    assert "awaited from node-a" in (answer.assignment.waiting or "")


def test_the_run_that_started_first_has_the_node(federation: Federation) -> None:
    federation.begin()
    first = federation.run_id
    federation.alliance.clock.advance(1)
    federation.begin(num_rounds=1)
    second = federation.run_id
    assert federation["node-a"].assignment().run_id == first
    federation.alliance.admin.post(f"{transport.API}/runs/{first}/pause")
    assert federation["node-a"].assignment().run_id == first
    federation.alliance.admin.post(f"{transport.API}/runs/{first}/stop")
    wish = federation["node-a"].desired()
    assert wish.assignment is not None
    assert (wish.assignment.run_id, wish.finished_runs) == (second, (first,))
