"""What an agent remembers of the coordinator's ledger, and what it does when the ledger was restored from a backup."""

from pathlib import Path

import httpx
import pytest

from hsl_model.protocol import transport
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.ledger import Mark, RecordReport, verify_record
from hsl_model.protocol.messages import DesiredRequest, DesiredState, Recovery
from hsl_model.protocol.states import NodePhase
from node_agent.coordinator_client import CoordinatorClient
from node_agent.egress import EgressLedger
from node_agent.enrol import enrol
from node_agent.errors import failure_of
from node_agent.journal import Journal
from node_agent.ledger_memory import EVENT_EVERY_S, LedgerMemory, OtherLedgerError
from tests.node_agent.alliance import AGENT, PEER, RUN, Alliance, answer, make_config
from tests.node_agent.helpers import Hospital

OURS, OTHERS = "a" * 32, "b" * 32


class Memory:
    """A memory on a journal; `again` is what is left of it after a restart."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.path = folder / "journal.sqlite"
        self.again()

    def again(self) -> None:
        self.journal = Journal(self.path, self.clock)
        self.memory = LedgerMemory(self.journal, self.clock)

    def saw(self, event_id: int, generation: int = 1, ledger_id: str = OURS) -> None:
        self.memory.saw(Mark(ledger_id, generation, event_id), "http://coordinator")

    def told(self, round_number: int, *revoked: str, **changes: object) -> None:
        config = make_config()
        state = DesiredState.model_validate(
            {
                "version": "v",
                "revoked": revoked,
                "assignment": {
                    "run_id": RUN,
                    "run_status": "running",
                    "config": config,
                    "members": (AGENT, PEER),
                    "round_number": round_number,
                    "round_status": "open",
                    "participation": "assigned",
                },
                **changes,
            }
        )
        self.memory.told(state)


@pytest.fixture
def held(tmp_path: Path) -> Memory:
    return Memory(tmp_path)


def test_the_highest_of_everything_survives_a_restart(held: Memory) -> None:
    assert held.memory.seen() is None
    held.saw(7)
    held.told(3, PEER)
    held.told(2)
    held.saw(5)  # a reply that was under way for long
    held.again()
    seen = held.memory.seen()
    assert seen is not None
    assert (seen.ledger_id, seen.generation, seen.event_id) == (OURS, 1, 7)
    assert (seen.rounds, seen.revoked) == ({RUN: 3}, (PEER,))
    held.told(3, finished_runs=(RUN,), assignment=None)
    assert held.memory.seen().rounds == {}  # type: ignore[union-attr]


def test_events_alone_do_not_write_the_journal_each_time(held: Memory) -> None:
    held.saw(1)
    held.saw(2)
    held.again()
    assert held.memory.seen().event_id == 1  # type: ignore[union-attr]
    held.saw(3)
    held.clock.advance(EVENT_EVERY_S)
    held.saw(4)
    held.again()
    assert held.memory.seen().event_id == 4  # type: ignore[union-attr]


def test_a_recovered_ledger_replaces_what_was_known(held: Memory) -> None:
    held.saw(90)
    held.told(3, PEER)
    held.told(1, generation=2)  # another thread has not seen the reply yet
    held.saw(40, generation=2)
    seen = held.memory.seen()
    assert seen is not None
    assert (seen.generation, seen.event_id, seen.rounds, seen.revoked) == (2, 40, {}, ())
    held.saw(95, generation=1)
    assert held.memory.seen() == seen


def test_what_a_held_ledger_says_is_not_remembered(held: Memory) -> None:
    held.saw(90)
    held.told(3, recovery=Recovery(sentence="It was restored.", records_from={}))
    assert held.memory.seen().rounds == {}  # type: ignore[union-attr]


def test_another_ledger_is_refused_by_name_until_the_admin_enrols_again(held: Memory) -> None:
    replies = {"ledger": Mark(OURS, 1, 5)}

    def handle(request: httpx.Request) -> httpx.Response:
        reply = answer(DesiredState(version="v"))
        reply.headers[transport.LEDGER_HEADER] = replies["ledger"].header()
        return reply

    ledger = EgressLedger(held.journal, held.clock)
    line = httpx.MockTransport(handle)
    client = CoordinatorClient("http://coordinator", ledger, memory=held.memory, http_transport=line)
    client.desired(DesiredRequest(wait_s=0))
    replies["ledger"] = Mark(OTHERS, 1, 9)
    with pytest.raises(OtherLedgerError) as refused:
        client.desired(DesiredRequest(wait_s=0))
    sentence = failure_of(refused.value).sentence
    assert "http://coordinator keeps another ledger (bbbbbbbb) than the one this site joined (aaaaaaaa)" in sentence
    assert "`hsl node enrol --again`" in sentence
    held.memory.join(Mark(OTHERS, 1, 9))
    assert client.desired(DesiredRequest(wait_s=0)).version == "v"


def test_enrolling_again_keeps_the_keys(tmp_path: Path) -> None:
    alliance = Alliance(tmp_path, make_config())
    hospital = Hospital(tmp_path / "a", alliance).join()
    first = alliance.agent_key
    alliance.ledger = Mark(OTHERS, 1, 1)
    enrol(hospital.settings, "http://coordinator", "right-code", http_transport=alliance.transport())
    assert alliance.agent_key == first


def test_through_a_recovery_nothing_is_trained_twice(tmp_path: Path) -> None:
    """Round 2 is announced, and the ledger restored from before it: held, records sent, announced again, finished."""
    alliance = Alliance(tmp_path, make_config(num_rounds=2), invited=True)
    alliance.freezes = False
    hospital = Hospital(tmp_path / "a", alliance).join()
    with hospital.running(), hospital.site() as site:
        hospital.wait(lambda: [run for run in site.get("/runs").json() if run["counts"]])
        assert site.post(f"/runs/{RUN}/accept", params={"wait_s": 20}).json()["told"]
        for number in (0, 1, 2):
            alliance.wait(lambda number=number: alliance.round.number == number and AGENT in alliance.round.updates)
            if number < 2:
                alliance.change(freezes=True)
                alliance.change(freezes=False)
        hospital.wait(lambda: hospital.row().phase is NodePhase.WAITING)
        accepts, announced = len(alliance.asked("/accept")), dict(alliance.round.updates)

        alliance.change(recovery=Recovery(sentence="It was restored.", records_from={RUN: 1}))
        alliance.wait(lambda: any(body["is_last"] for body in alliance.asked("/records")))
        alliance.wait(lambda: len(alliance.asked("/accept")) == accepts + 1)  # also what its admin had answered
        hospital.wait(lambda: hospital.mailbox.waiting == "It was restored.")
        reports = [RecordReport.model_validate(body) for body in alliance.asked("/records")]
        records = [verify_record(one.signed, (alliance.agent_key,)) for one in reports if one.signed]
        assert [one.round_number for one in records] == [1]
        assert {one.manifest.node_id for one in records[0].manifests} == {AGENT, PEER}
        assert records[0].report.fused_digest == alliance.history[1]
        assert records[0].report.validation is not None

        del alliance.round.updates[AGENT]
        alliance.change(recovery=None, ledger=Mark(OURS, 2, 1), freezes=True)
        alliance.wait(lambda: alliance.finished)
        hospital.wait(lambda: hospital.row().facts is None)
    assert alliance.round.updates == announced
    assert sum('"kind": "train_round"' in line for line in hospital.asked_trainer()) == 2
    assert alliance.asked(transport.DESIRED)[-1]["seen"]["generation"] == 2
