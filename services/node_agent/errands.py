"""What this node owes beside its round, done by a thread of its own so that a long training holds up nobody.

    an invitation             -> look at the data (truth report), so that the admin sees counts before answering
    an answer of the admin    -> tell the coordinator
    publish a file it keeps   -> upload it, then say so (rule 7)
    peers miss its update     -> upload it again, announce it again
    released rounds           -> delete their files
    a run that is over        -> delete its work, keep its models
    the coordinator's ledger  -> the admin's answers once more, and the records of rounds it does not know; all else
    was restored                 waits until it is recovered
    keys to be rotated        -> tell the coordinator, put the new ones in place, log in with them (`key_errands.py`)
    another host key          -> ask the coordinator which one the hub has
    a restart, a late round   -> remove half-written files from the hub that nobody needs any more; also after a run

Every errand can be repeated. One that fails is tried again later by itself and keeps no other from being done.
"""

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from hsl_model.protocol import paths
from hsl_model.protocol.ledger import RecordReport
from hsl_model.protocol.messages import (
    AcceptRequest,
    DesiredState,
    Invitation,
    PublishedReport,
    PublishRequest,
    Recovery,
)
from hsl_model.protocol.retry import FailureKind, RetryPolicy
from node_agent.bindings import read_binding, site_source
from node_agent.consents import Answer, Consent, Consents
from node_agent.context import Context
from node_agent.coordinator_client import CoordinatorError
from node_agent.errors import BindingInvalidError, BindingMissingError, Interrupted, TrainerFailedError, failure_of
from node_agent.key_errands import KeyErrands
from node_agent.mailbox import Mailbox
from node_agent.model_card import finish_model_cards, release_model_cards
from node_agent.phases.publishing import publish_again
from node_agent.phases.records import records_from
from node_agent.poller import pause
from node_agent.trainer.messages import Prepare, Prepared
from node_agent.trainer.parent import Trainer

logger = structlog.get_logger(__name__)


@dataclass
class _Later:
    attempt: int
    due_s: float


class _QuietWatch:
    """Errands move bytes beside the round: they show no progress of their own and end only with the agent."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def moved(self, done: int, total: int) -> None:
        del done, total

    def cancelled(self) -> bool:
        return self._mailbox.stopping


class Errands(threading.Thread):
    """`context` is this thread's own: its own connection to the hub, its own child for looking at data."""

    def __init__(self, context: Context, consents: Consents, retry: RetryPolicy) -> None:
        super().__init__(name="errands", daemon=True)
        self._context = context
        self._consents = consents
        self._retry = retry
        self._later: dict[str, _Later] = {}
        self._watch = _QuietWatch(context.mailbox)
        self._done: dict[str, str] = {}  # errand -> version of the desired state it was done for
        self._answered_again: int | None = None  # generation of the ledger that the consents were told to once more
        self._keys = KeyErrands(context)
        self._tidied: set[str] = set()  # occasions after which the own folder on the hub was looked through

    def run(self) -> None:
        box = self._context.mailbox
        while not box.stopping:
            with box.changed:
                seen = box.generation
            self.do_all()
            due_s = min((later.due_s for later in self._later.values()), default=None)
            wait_s = 3600.0 if due_s is None else max(0.0, due_s - self._context.clock.monotonic())
            pause(box, self._context.clock, wait_s, partial(box.differs_from, seen))
        self._context.hub.drop()

    def do_all(self) -> None:
        desired = self._context.mailbox.desired
        if desired is None or self._context.mailbox.revoked:
            return
        self._keys.look(desired.roster)
        wanted = self._wanted(desired)
        self._later = {name: later for name, later in self._later.items() if name in wanted}
        self._done = {name: version for name, version in self._done.items() if name in wanted}
        for name, errand in wanted.items():
            if self._context.mailbox.stopping:
                return
            if self._done.get(name) != desired.version and self._is_due(name):
                self._do(name, errand, desired.version)

    def _is_due(self, name: str) -> bool:
        later = self._later.get(name)
        return later is None or later.due_s <= self._context.clock.monotonic()

    def _do(self, name: str, errand: Callable[[], bool], version: str) -> None:
        try:
            if errand():
                self._done[name] = version
            self._later.pop(name, None)
        except Interrupted:
            return
        except Exception as error:  # noqa: BLE001 - thread boundary: said in the log, tried again later
            failure = failure_of(error)
            attempt = self._later[name].attempt + 1 if name in self._later else 0
            delay_s = self._retry.delay_s(attempt, failure.kind, 0.5)
            # What looks permanent is put right by people (a file restored, a permission): look again, but seldom.
            due_s = self._context.clock.monotonic() + (10 * self._retry.cap_s if delay_s is None else delay_s)
            self._later[name] = _Later(attempt, due_s)
            self._context.hub.drop()
            self._keys.failed(failure)
            logger.warning("an errand failed", errand=name, code=failure.code, reason=failure.sentence)

    def _wanted(self, desired: DesiredState) -> dict[str, Callable[[], bool]]:
        """Every errand of this moment by name. Each returns whether it is done as far as this desired state goes."""
        if desired.recovery is not None:
            return self._for_recovery(desired, desired.recovery)
        wanted = self._answers(desired)
        for invitation in desired.invitations:
            wanted[f"look at data for {invitation.run_id}"] = partial(self._look_at_data, invitation)
        for request in desired.publish:
            wanted[f"publish {request.file_sha256}"] = partial(self._publish, request)
        assignment = desired.assignment
        if assignment is not None:
            for sha256 in assignment.republish:
                wanted[f"republish {sha256}"] = partial(self._republish, sha256)
            kept = (assignment.run_id, assignment.release_before, assignment.keep)
            wanted[f"release {kept}"] = partial(self._release, *kept)
        for run_id in desired.finished_runs:
            wanted[f"finish {run_id}"] = partial(self._finish, run_id)
        wanted |= self._keys.wanted()
        for occasion in self._occasions() - self._tidied:
            wanted[f"tidy the hub after {occasion}"] = partial(self._tidy, occasion)
        return wanted

    def _answers(self, desired: DesiredState) -> dict[str, Callable[[], bool]]:
        return {
            f"{consent.answer} {consent.run_id}": partial(self._tell, consent, desired)
            for consent in self._consents.all()
            if consent.answer is not None and not consent.told
        }

    def _for_recovery(self, desired: DesiredState, recovery: Recovery) -> dict[str, Callable[[], bool]]:
        if self._answered_again != desired.generation:
            self._consents.tell_again()
            self._answered_again = desired.generation
        return {**self._answers(desired), "send records": partial(self._send_records, recovery)}

    def _occasions(self) -> set[str]:
        """When an upload may have been given up half-way."""
        facts = self._context.journal.current().facts
        found = {"a restart"} if self._context.journal.boot_number > 1 else set()
        if facts is not None and facts.left_out is not None and facts.update is not None:
            found.add(f"round {facts.round_number} of {facts.run_id}, which went on without this node")
        return found

    # --- consents ----------------------------------------------------------------------------------------------------

    def _look_at_data(self, invitation: Invitation) -> bool:
        """The truth report. A problem with the data is kept for the admin, who puts it right and answers again."""
        context, run_id, config = self._context, invitation.run_id, invitation.config
        self._consents.invite(run_id, config.task.task_id)
        consent = self._consents.get(run_id)
        if consent is None or consent.counts is not None or consent.problem is not None:
            return False
        try:
            read_binding(context.settings, config.task.task_id)
        except BindingMissingError:
            return False  # nothing to look at yet; `hsl node accept` says so
        except BindingInvalidError as error:
            self._problem(run_id, error.sentence())
            return False
        trainer = Trainer(
            context.settings.trainer_command,
            context.settings.run_folder(f"{run_id}.data"),
            context.mailbox,
            context.clock,
        )
        try:
            request = Prepare(site=site_source(context.settings, config))
            found = trainer.ask(request, Prepared, keep_going=lambda: not context.mailbox.stopping)
            self._consents.prepared(run_id, found.counts, "\n".join(found.lines))
        except TrainerFailedError as error:
            self._problem(run_id, error.sentence())
        finally:
            trainer.close()
            shutil.rmtree(trainer.run_folder, ignore_errors=True)
        context.mailbox.nudge()
        return False

    def _problem(self, run_id: str, sentence: str) -> None:
        self._consents.failed(run_id, sentence)
        self._context.mailbox.nudge()

    def _tell(self, consent: Consent, desired: DesiredState) -> bool:
        client, run_id = self._context.client, consent.run_id
        if consent.problem is not None:
            return False  # the admin has to answer anew
        try:
            if consent.answer is Answer.WITHDRAW:
                client.withdraw(run_id)
            elif consent.counts is not None:
                config = next((found.config for found in desired.invitations if found.run_id == run_id), None)
                sat_digest = config.sat_digest if config else None
                client.accept(run_id, AcceptRequest(counts=consent.counts, sat_digest=sat_digest))
            else:
                return False  # the data come first
        except CoordinatorError as error:
            if error.kind is not FailureKind.REJECTED:
                raise
            self._problem(run_id, error.sentence())
            return False
        self._consents.told(run_id, consent.answer or Answer.ACCEPT)
        self._context.mailbox.nudge()
        return False  # the journal knows; an admin who answers again is heard again

    def _send_records(self, recovery: Recovery) -> bool:
        """Every record that the restored ledger lacks, oldest first; at the end it is told that these were all."""
        context = self._context
        for run_id, round_number in sorted(recovery.records_from.items()):
            for signed in records_from(context.journal, run_id, round_number):
                context.client.record(RecordReport(signed=signed, is_last=False))
        context.client.record(RecordReport(is_last=True))
        return True

    # --- files -------------------------------------------------------------------------------------------------------

    def _publish(self, request: PublishRequest) -> bool:
        context, sha256 = self._context, request.file_sha256
        kept = context.store.find_publishable(request.run_id, sha256)
        if kept is None:
            logger.warning("asked to publish a file that is not kept here, or never leaves", sha256=sha256)
            return True
        context.hub.get().put_tensors(context.store.path(sha256), context.node_id, sha256, self._watch)
        context.client.published(PublishedReport(run_id=request.run_id, file_sha256=sha256, file_bytes=kept.num_bytes))
        return True

    def _republish(self, sha256: str) -> bool:
        publish_again(self._context, sha256, self._watch)
        return False

    def _release(self, run_id: str, before_round: int, keep: tuple[str, ...]) -> bool:
        num_deleted = self._context.store.release(run_id, before_round, keep)
        release_model_cards(self._context.settings, run_id, before_round, keep)
        if num_deleted:
            logger.info("released files were deleted", run_id=run_id, num_files=num_deleted)
        return True

    def _finish(self, run_id: str) -> bool:
        context = self._context
        row = context.journal.current()
        if row.facts is not None and row.facts.run_id == run_id:
            return False  # the main loop has still to leave it
        context.store.finish_run(run_id)
        folder = context.settings.run_folder(run_id)
        if folder.exists():
            self._remove_remote_parts(self._under_way)
            finish_model_cards(context.settings, run_id)
            shutil.rmtree(folder)
        return True

    def _tidy(self, occasion: str) -> bool:
        self._remove_remote_parts(self._may_be_uploaded)
        self._tidied.add(occasion)
        return True

    def _remove_remote_parts(self, wanted: Callable[[], frozenset[str]]) -> None:
        """Half-written files of ours on the hub that nobody wants; asked anew for each of them.

        One that the main loop begins to write in this very moment is, at worst, written again.
        """
        hub = self._context.hub.get()
        for path in hub.list_own():
            found = paths.parse(path)
            if isinstance(found, paths.TensorPath) and found.is_part and found.sha256 not in wanted():
                hub.remove(path)
                logger.info("a half-written file was removed from the hub", sha256=found.sha256)

    def _may_be_uploaded(self) -> frozenset[str]:
        facts = self._context.journal.current().facts
        kept = self._context.store.kept()
        if facts is None:
            return kept
        if facts.left_out is not None and facts.update is not None and facts.accepted_sha256 != facts.update.sha256:
            kept -= {facts.update.sha256}
        return kept | ({facts.signed.sha256} if facts.signed is not None else frozenset())

    def _under_way(self) -> frozenset[str]:
        """What is uploaded now: a round's update and its manifest, and what others ask for.

        When a run is over, that a file is kept is no reason: its models are, for ever; half of one would be, too.
        """
        desired, facts = self._context.mailbox.desired, self._context.journal.current().facts
        found = {request.file_sha256 for request in desired.publish} if desired else set()
        if facts is None:
            return frozenset(found)
        if facts.update is not None and (facts.left_out is None or facts.accepted_sha256 == facts.update.sha256):
            found.add(facts.update.sha256)
        if facts.signed is not None:
            found.add(facts.signed.sha256)
        return frozenset(found)
