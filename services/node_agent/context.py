"""What a phase function is given: the parts of the agent, and how to ask whether it should go on."""

from dataclasses import dataclass, field
from pathlib import Path

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import Assignment, DesiredRequest, Progress, RosterEntry, RoundCosts
from node_agent.bindings import site_source
from node_agent.coordinator_client import CoordinatorClient
from node_agent.egress import EgressLedger
from node_agent.enrol import Identity
from node_agent.errors import Interrupted
from node_agent.facts import RoundFacts
from node_agent.hub_connection import HubConnection
from node_agent.journal import Journal, PhaseRow
from node_agent.mailbox import Mailbox
from node_agent.peers import Held, Peers
from node_agent.rate import Rate
from node_agent.reconcile import Decision, Move, Proceed, Wish, decide
from node_agent.settings import NodeSettings
from node_agent.store import Store
from node_agent.trainer.messages import Options, Work
from node_agent.trainer.parent import Trainer


@dataclass
class Meter:
    """What the present phase has cost so far. A file counts when it is complete, resumed or not."""

    entered_s: float
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass
class Context:
    settings: NodeSettings
    identity: Identity
    clock: Clock
    journal: Journal
    store: Store
    ledger: EgressLedger
    client: CoordinatorClient
    mailbox: Mailbox
    hub: HubConnection
    peers: Peers
    row: PhaseRow
    meter: Meter = field(default_factory=lambda: Meter(0.0))
    _trainer: Trainer | None = None
    _decided: tuple[int, PhaseRow, Decision] | None = None

    @property
    def node_id(self) -> str:
        return self.identity.node_id

    # --- should this phase go on? ------------------------------------------------------------------------------------

    def decision(self) -> Decision:
        """`reconcile.decide` of this instant; computed anew only when something has changed."""
        box = self.mailbox
        with box.changed:
            known = self._decided
            if known is None or known[0] != box.generation or known[1] is not self.row:
                wish = Wish(self.node_id, box.desired, paused_by_site=box.paused, revoked=box.revoked)
                known = self._decided = (box.generation, self.row, decide(self.row, wish))
        return known[2]

    def may_train(self) -> bool:
        """Training stops for everything that is not `Proceed`: pause, stop, a plan that froze without this node."""
        return not self.mailbox.stopping and isinstance(self.decision(), Proceed)

    def may_finish(self) -> bool:
        """Transfers and fusions stop only when the round is left, or the agent ends."""
        decision = self.decision()
        leaving = isinstance(decision, Move) and (decision.facts is None or decision.facts.key != self._key)
        return not self.mailbox.stopping and not leaving

    def check(self) -> None:
        if not self.may_finish():
            raise Interrupted

    @property
    def _key(self) -> tuple[str, int] | None:
        return self.row.facts.key if self.row.facts else None

    # --- the coordinator ---------------------------------------------------------------------------------------------

    def assignment(self, facts: RoundFacts) -> Assignment | None:
        """The newest word about this very round, if there is one."""
        desired = self.mailbox.desired
        found = desired.assignment if desired else None
        return found if found and (found.run_id, found.round_number) == facts.key else None

    def roster(self, facts: RoundFacts) -> dict[str, RosterEntry]:
        """Of the round: as the plan came with it, and newer where the coordinator has said something since."""
        found = {entry.node_id: entry for entry in (facts.planned.roster if facts.planned else ())}
        desired = self.mailbox.desired
        if desired is not None and self.assignment(facts) is not None:
            found |= {entry.node_id: entry for entry in desired.roster}
        return found

    def held(self, facts: RoundFacts) -> dict[str, Held]:
        """Nodes of the round of which nothing may be believed now."""
        return self.peers.look(self.roster(facts).values())

    def ask_for(self, sha256: str) -> None:
        """Rule 7: let the coordinator find someone who keeps this file. Said at once, then with every poll."""
        if sha256 in self.mailbox.missing:
            return
        with self.mailbox.change():
            self.mailbox.missing |= {sha256}
        desired = self.client.desired(DesiredRequest(wait_s=0, missing=tuple(sorted(self.mailbox.missing))[:16]))
        with self.mailbox.change():
            self.mailbox.desired = desired

    def found(self, sha256: str) -> None:
        if sha256 in self.mailbox.missing:
            with self.mailbox.change():
                self.mailbox.missing -= {sha256}

    # --- costs and progress ------------------------------------------------------------------------------------------

    def begin_phase(self) -> None:
        self.meter = Meter(self.clock.monotonic())
        self.mailbox.progress = None

    def costs(self, facts: RoundFacts) -> RoundCosts:
        """The round's costs including the phase under way."""
        elapsed_s = self.clock.monotonic() - self.meter.entered_s
        seconds = {**facts.costs.phase_seconds}
        seconds[self.row.phase] = seconds.get(self.row.phase, 0.0) + elapsed_s
        return RoundCosts(
            bytes_up=facts.costs.bytes_up + self.meter.bytes_up,
            bytes_down=facts.costs.bytes_down + self.meter.bytes_down,
            phase_seconds=seconds,
        )

    def watch(self) -> "Watch":
        return Watch(self)

    def steps(self, done: int, total: int) -> None:
        self.mailbox.progress = Progress(unit="steps", done=done, total=total, attempt=self.row.attempt + 1)

    # --- the training child ------------------------------------------------------------------------------------------

    def trainer(self, run_id: str) -> Trainer:
        """The run's child; a child of another run ends first."""
        folder = self.settings.run_folder(run_id)
        if self._trainer is not None and self._trainer.run_folder != folder:
            self.end_trainer()
        if self._trainer is None:
            self._trainer = Trainer(self.settings.trainer_command, folder, self.mailbox, self.clock)
        return self._trainer

    @property
    def trainer_pid(self) -> int | None:
        return self._trainer.pid if self._trainer else None

    def end_trainer(self) -> None:
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            trainer.close()

    def work(self, facts: RoundFacts, start: tuple[Path, ...]) -> Work:
        return Work(
            run_id=facts.run_id,
            node_id=self.node_id,
            round_number=facts.round_number,
            config=facts.config,
            site=site_source(self.settings, facts.config),
            start=start,
            options=engine_options(self.settings),
        )


class Watch:
    """What a transfer reports to and asks: `TransferWatch` of the exchange."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._rate = Rate(context.clock)
        self._moved: tuple[int, int] | None = None
        self._shown_at_s = 0.0

    def moved(self, done: int, total: int) -> None:
        self._rate.add(done)
        self._moved = (done, total)
        self._show()

    def cancelled(self) -> bool:
        """Asked once a second also while nothing moves: a line that stands still is shown so."""
        if self._moved is not None and self._context.clock.monotonic() - self._shown_at_s >= 1.0:
            self._rate.add(self._moved[0])
            self._show()
        return not self._context.may_finish()

    def _show(self) -> None:
        if self._moved is None:
            return
        done, total = self._moved
        self._shown_at_s = self._context.clock.monotonic()
        self._context.mailbox.progress = Progress(
            unit="bytes",
            done=done,
            total=total,
            rate_per_s=self._rate.per_s(done),
            attempt=self._context.row.attempt + 1,
        )


def engine_options(settings: NodeSettings) -> Options:
    return Options(
        device=settings.device,
        num_threads=settings.num_threads,
        snapshot_every_steps=settings.snapshot_every_steps,
        micro_batch_size=settings.micro_batch_size,
        channels_last=settings.channels_last,
        compiled=settings.compiled,
        cache_on_device=settings.cache_on_device,
    )
