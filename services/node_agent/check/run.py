"""All checks, in their order; the picture is in the package's docstring."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import QuorumConfig, RunConfig, TaskConfig
from hsl_model.protocol.manifest import canonical_json
from hsl_model.protocol.messages import HubPlace
from node_agent.check.certificate import check_certificate
from node_agent.check.clocks import check_clock
from node_agent.check.coordinator import Answer, ask_coordinator
from node_agent.check.disk import LEAST_BYTES, Rounds, check_disk, there_of
from node_agent.check.dns import check_name
from node_agent.check.estimate import RoundSize, estimated
from node_agent.check.finding import Ask, CheckReport, Concern, Finding, Outcome, Part, Place
from node_agent.check.host_key import check_host_key
from node_agent.check.port import check_port, check_proxy
from node_agent.check.training import check_training
from node_agent.check.transfer import Speeds, check_transfer
from node_agent.consents import Consents
from node_agent.egress import EgressLedger, GuardedExchange
from node_agent.enrol import AGENT_VERSION, Identity, load_identity
from node_agent.errors import NotEnrolledError
from node_agent.journal import Journal
from node_agent.main import paced_exchange
from node_agent.private_files import write_private
from node_agent.proxy import proxy_for, tls_context, way_out
from node_agent.settings import NodeSettings
from node_agent.tls import is_loopback

PUBLISHED_MODEL_BYTES = 95_000_000  # 23,723,650 parameters; used where no batch was tried
ASSUMED_MEMBERS = 3
ASSUMED_CASES = 1000
LAST_CHECK = "check.json"  # in the agent's folder, for the support bundle

_TO_THE_HUB = (Concern.NAME, Concern.PROXY, Concern.PORT, Concern.HOST_KEY)
_THROUGH_THE_HUB = (Concern.UPLOAD, Concern.DOWNLOAD)
_NO_ROOM = "Needs room on the disk."

Tell = Callable[[Finding], None]


@dataclass(frozen=True)
class Wanted:
    """What to check. None: what the enrolment, the coordinator or the run under way says, else what is published."""

    settings: NodeSettings
    coordinator_url: str | None = None
    hub: HubPlace | None = None  # counts before enrolment only
    config: RunConfig | None = None
    num_rounds: int = 3
    num_members: int | None = None
    num_cases: int | None = None
    with_training: bool = True


@dataclass(frozen=True)
class _Known:
    """What the agent's folder says."""

    identity: Identity | None
    config: RunConfig | None = None
    num_cases: int | None = None


def run_checks(wanted: Wanted, clock: Clock, tell: Tell) -> CheckReport:
    """`tell` hears of each finding at once. Raises `NotEnrolledError` where nobody says which coordinator."""
    report = _Checks(wanted, clock, tell).run()
    if report.is_enrolled and _has_room(wanted.settings):
        write_private(wanted.settings.workdir / LAST_CHECK, canonical_json(report))
    return report


class _Checks:
    def __init__(self, wanted: Wanted, clock: Clock, tell: Tell) -> None:
        self._wanted, self._settings, self._clock, self._tell = wanted, wanted.settings, clock, tell
        self._known = _read_folder(wanted.settings, clock)
        self._findings: list[Finding] = []
        self._answer: Answer | None = None
        self._speeds: Speeds | None = None
        self._needed: list[Ask] = []

    def run(self) -> CheckReport:
        self._check_coordinator()
        self._check_hub()
        batch_s, model_bytes = self._check_here()
        size = self._size(model_bytes)
        return CheckReport(
            at=self._clock.now(),
            agent_version=AGENT_VERSION,
            is_enrolled=self._known.identity is not None,
            findings=tuple(self._findings),
            needed=tuple(dict.fromkeys(self._needed)),
            estimate=estimated(size, batch_s, self._speeds),
        )

    # --- the parts ---------------------------------------------------------------------------------------------------

    def _check_coordinator(self) -> None:
        identity = self._known.identity
        url = self._wanted.coordinator_url or self._settings.coordinator_url
        if not url and identity is not None:
            url = identity.node.coordinator_url
        if not url:
            raise NotEnrolledError(workdir=self._settings.workdir)
        place = self._coordinator_place(url)
        self._chain(
            place,
            (
                (Concern.NAME, lambda: check_name(place)),
                (Concern.PROXY, lambda: check_proxy(place)),
                (Concern.PORT, lambda: check_port(place, self._clock)),
                (Concern.CERTIFICATE, lambda: self._certificate(place, url)),
                (Concern.ANSWER, lambda: self._ask(place, url)),
                (Concern.CLOCK, self._compare_clocks),
            ),
        )

    def _check_hub(self) -> None:
        place, identity = self._hub_place(), self._known.identity
        if place is None:
            for concern in (*_TO_THE_HUB, *_THROUGH_THE_HUB):
                self._skip(Part.HUB, concern, "The hub's address is not known yet: give --hub HOST:PORT.")
            return
        failed = self._chain(
            place,
            (
                (Concern.NAME, lambda: check_name(place)),
                (Concern.PROXY, lambda: check_proxy(place)),
                (Concern.PORT, lambda: check_port(place, self._clock)),
                (
                    Concern.HOST_KEY,
                    lambda: check_host_key(place, None if identity is None else identity.node.hub.host_key),
                ),
            ),
        )
        if identity is not None and failed is None and _has_room(self._settings):
            self._transfer(place, identity)
            return
        why = _NO_ROOM if failed is None else f"Needs the hub's {failed.concern} first."
        for concern in _THROUGH_THE_HUB:
            self._skip(Part.HUB, concern, "Possible after enrolment." if identity is None else why)

    def _transfer(self, place: Place, identity: Identity) -> None:
        journal = Journal(self._settings.journal_path, self._clock)
        try:
            opened = paced_exchange(self._settings, self._clock)(
                identity.node.hub, identity.keys.ssh_key, identity.node_id
            )
            exchange = GuardedExchange(opened, EgressLedger(journal, self._clock))
            with self._folder() as folder:
                found, self._speeds = check_transfer(place, exchange, identity.node_id, folder, self._clock)
        finally:
            journal.close()
        for finding in found:
            self._add(finding)

    def _check_here(self) -> tuple[float | None, int]:
        """Time of a batch, and size of the model."""
        batch_s, model_bytes = None, PUBLISHED_MODEL_BYTES
        if not self._wanted.with_training:
            self._skip(Part.HERE, Concern.TRAINING, "Left out on request.")
        elif not _has_room(self._settings):
            self._skip(Part.HERE, Concern.TRAINING, _NO_ROOM)
        else:
            with self._folder() as folder:
                finding, tried = check_training(self._settings, self._config, folder, self._clock)
            self._add(finding)
            if tried is not None:
                batch_s, model_bytes = tried.batch_s, tried.model_bytes
        rounds = Rounds(self._wanted.num_rounds, self._size(model_bytes).num_members, model_bytes)
        self._add(check_disk(self._settings.workdir, rounds))
        return batch_s, model_bytes

    # --- single steps ------------------------------------------------------------------------------------------------

    def _certificate(self, place: Place, url: str) -> Finding:
        if place.protocol == "HTTPS":
            return check_certificate(place, tls_context(self._settings, url), self._clock.now())
        if is_loopback(place.host):
            return place.found(Concern.CERTIFICATE, Outcome.OK, "Plain HTTP, on this machine only.")
        sentence = "The address is plain http://: anybody on the way could read the token. Ask for the https:// one."
        return place.found(Concern.CERTIFICATE, Outcome.FAILED, sentence)

    def _ask(self, place: Place, url: str) -> Finding:
        self._answer = ask_coordinator(place, url, way_out(self._settings, url), self._clock)
        return self._answer.finding

    def _compare_clocks(self) -> Finding:
        if self._answer is None:
            raise LookupError("the coordinator has not been asked")
        return check_clock(self._answer)

    def _chain(self, place: Place, steps: Sequence[tuple[Concern, Callable[[], Finding]]]) -> Finding | None:
        """Up to the first failure, which is returned; what follows needs it."""
        failed: Finding | None = None
        for concern, check in steps:
            if failed is None:
                finding = self._add(check())
                failed = finding if finding.outcome is Outcome.FAILED else None
            else:
                self._skip(place.part, concern, f"Needs the {place.part}'s {failed.concern} first.")
        return failed

    def _add(self, finding: Finding) -> Finding:
        self._findings.append(finding)
        self._tell(finding)
        return finding

    def _skip(self, part: Part, concern: Concern, sentence: str) -> None:
        self._add(Finding(part=part, concern=concern, outcome=Outcome.SKIPPED, sentence=sentence))

    # --- what is checked ---------------------------------------------------------------------------------------------

    def _coordinator_place(self, url: str) -> Place:
        address = httpx.URL(url)
        is_tls = address.scheme == "https"
        return self._place(Part.COORDINATOR, address.host, address.port or (443 if is_tls else 80), is_tls)

    def _hub_place(self) -> Place | None:
        identity = self._known.identity
        told = self._answer.hub if self._answer else None
        known = (identity and identity.node.hub) or self._wanted.hub or told
        return None if known is None else self._place(Part.HUB, known.host, known.port, is_tls=False)

    def _place(self, part: Part, host: str, port: int, is_tls: bool) -> Place:
        protocol = "SFTP over SSH" if part is Part.HUB else "HTTPS" if is_tls else "HTTP"
        proxy = proxy_for(self._settings, host, port)
        place = Place(part=part, host=host, port=port, protocol=protocol, proxy=proxy)
        self._needed += place.needed
        return place

    @property
    def _config(self) -> RunConfig:
        return self._wanted.config or self._known.config or published_config()

    def _size(self, model_bytes: int) -> RoundSize:
        named = self._wanted.config or self._known.config
        num_cases = self._wanted.num_cases or self._known.num_cases
        return RoundSize(
            config=self._config,
            num_members=self._wanted.num_members or (len(named.nodes) if named else ASSUMED_MEMBERS),
            num_cases=num_cases or ASSUMED_CASES,
            assumed=num_cases is None,
            model_bytes=model_bytes,
        )

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        """The check's own, on the agent's disk once there is one; gone afterwards."""
        parent = self._settings.workdir if self._known.identity else None
        with tempfile.TemporaryDirectory(prefix="check-", dir=parent) as name:
            yield Path(name)


def published_config() -> RunConfig:
    """The network, image and batch size of the publication."""
    task = TaskConfig(task_id="check", positive_class="positive", negative_class="negative", modality="any")
    return RunConfig(name="check", task=task, nodes=("here",), quorum=QuorumConfig(min_nodes=1), sat_digest="0" * 64)


def _read_folder(settings: NodeSettings, clock: Clock) -> _Known:
    try:
        identity = load_identity(settings)
    except NotEnrolledError:
        return _Known(None)
    if not _has_room(settings):
        return _Known(identity)  # opening the journal writes to it
    journal = Journal(settings.journal_path, clock)
    try:
        facts = journal.current().facts
        consent = None if facts is None else Consents(journal, clock).get(facts.run_id)
    finally:
        journal.close()
    counts = None if consent is None or consent.counts is None else consent.counts.training
    num_cases = None if counts is None else counts.positive + counts.negative
    return _Known(identity, None if facts is None else facts.config, num_cases)


def _has_room(settings: NodeSettings) -> bool:
    return shutil.disk_usage(there_of(settings.workdir)).free >= LEAST_BYTES
