"""One hospital: the real agent's parts as `node_agent.main` has them, each thread a greenlet, and its admin."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hsl_data.binding import SiteBinding
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import RetryPolicy
from hsl_model.protocol.states import NodePhase
from node_agent.bindings import BindingFile, write_binding
from node_agent.consents import Answer, Consents
from node_agent.context import Context
from node_agent.coordinator_client import Boot
from node_agent.daemon import Daemon
from node_agent.enrol import Identity, NodeFile
from node_agent.errands import Errands
from node_agent.exchange.base import Exchange
from node_agent.facts import RoundFacts
from node_agent.heartbeat import HeartbeatThread
from node_agent.journal import Journal, PhaseRow
from node_agent.keys import NodeKeys
from node_agent.mailbox import Mailbox
from node_agent.main import _Agent
from node_agent.phases import PHASES
from node_agent.poller import Poller
from node_agent.settings import NodeSettings
from tests.simulator.faults import Faults
from tests.simulator.files import FaultyExchange, HubFolder
from tests.simulator.line import Line
from tests.simulator.scheduler import Scheduler, SiteClock, Wake

HUB = HubAddress(host="127.0.0.1", port=2022, username="node", host_key="ssh-ed25519 AAAA")
TASK_ID = "fracture"


def token_of(node_id: str) -> str:
    return f"hsln_{node_id}_simulated"


def key_of(node_id: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(node_id.encode()).digest())


@dataclass
class Site:
    node_id: str
    folder: Path
    hub: HubFolder
    line: Line
    faults: Faults
    scheduler: Scheduler
    journal: Journal | None = None
    mailbox: Mailbox = field(default_factory=Mailbox)
    agent: _Agent | None = None
    num_starts: int = 0
    asked_to_withdraw: bool = False

    def __post_init__(self) -> None:
        self.clock = SiteClock(self.scheduler)
        self.settings = NodeSettings(
            workdir=self.folder, poll_wait_s=55.0, heartbeat_interval_s=45.0, trainer_command=(self.node_id,)
        )
        binding = SiteBinding(task_id=TASK_ID, reader="npz", path=self.folder / "x.npz", classes={"a": "p", "b": "n"})
        write_binding(self.settings, BindingFile(binding=binding))
        key = key_of(self.node_id)
        node = NodeFile(node_id=self.node_id, alliance="test", coordinator_url="http://coordinator", hub=HUB)
        self._identity = Identity(node, token_of(self.node_id), NodeKeys(self.folder / "key", "ssh-ed25519 A", key))

    # --- the process -------------------------------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        return self.journal is not None

    def start(self) -> None:
        """As `main.run_daemon`; the status page is left out."""
        if self.journal is not None:
            return
        scheduler, clock, retry = self.scheduler, self.clock, RetryPolicy()
        self.num_starts += 1
        self.journal = Journal(self.settings.journal_path, clock)
        self.mailbox = Mailbox(changed=Wake())  # type: ignore[arg-type]
        self.agent = agent = _Agent(self.settings, self._identity, self.journal, clock, retry, self.mailbox)
        agent._boot = Boot(agent._boot.number, f"boot-{self.num_starts}")  # drawn at random otherwise
        client = agent._client(self.line)
        context = agent._context(client, self._exchange)
        consents = Consents(self.journal, clock)
        daemon = Daemon(context, self._phases(), retry, lambda: 0.5)
        heartbeat = HeartbeatThread(client, self.journal, self.mailbox, clock, self.settings.heartbeat_interval_s)
        errands = Errands(agent._context(client, self._exchange), consents, retry)
        poller = Poller(agent._client(self.line), self.mailbox, clock, self.settings.poll_wait_s, retry)
        for name, part in (("main", daemon), ("poller", poller), ("heartbeat", heartbeat), ("errands", errands)):
            scheduler.start(self.node_id, f"{self.node_id}.{name}", part.run)

    def die(self) -> None:
        """What was not committed is lost. Requests that are on their way stay on it."""
        if self.journal is None:
            return
        self.scheduler.note(f"{self.node_id}: dies in {self.journal.current().phase}")
        self.scheduler.kill(self.node_id)
        self.journal.close()
        self.journal = self.agent = None

    def _exchange(self, *_: object) -> Exchange:
        return FaultyExchange(self.hub, self.node_id, self.faults, self.scheduler)

    def _phases(self) -> Mapping[NodePhase, Any]:
        return {phase: partial(self._phase, phase) for phase in PHASES}

    def _phase(self, phase: NodePhase, context: Context, facts: RoundFacts) -> tuple[NodePhase, RoundFacts | None]:
        """The process may die before a phase begins, and when it is done but not written."""
        self.scheduler.note(f"{self.node_id}: {facts.round_number} {phase}")
        self.scheduler.crossing()
        made = PHASES[phase](context, facts)
        self.scheduler.crossing()
        return made

    # --- the site's admin: what the site API does ---------------------------------------------------------------------

    def row(self) -> PhaseRow:
        assert self.journal is not None
        return self.journal.current()

    def answer(self, run_id: str, answer: Answer) -> None:
        if self.journal is not None:
            consents = Consents(self.journal, self.clock)
            consents.invite(run_id, TASK_ID)
            consents.answer(run_id, answer)
            self.mailbox.nudge()

    def set_paused(self, paused: bool) -> None:
        if self.journal is not None:
            self.journal.set_paused(paused)
            with self.mailbox.change():
                self.mailbox.paused = paused

    def retry(self) -> None:
        with self.mailbox.change():
            self.mailbox.retry_requested = True
