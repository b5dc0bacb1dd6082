"""The agent's composition root: `run_daemon` puts the parts together, `main` is `python -m node_agent`.

python -m node_agent            serve, configured by HSL_NODE_*; SIGTERM or Ctrl-C end it cleanly
python -m node_agent egress     check this node's egress ledger offline and say its head
"""

import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
import structlog
from pydantic import ValidationError
from structlog.tracebacks import ExceptionDictTransformer

from hsl_model.locking import alone
from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.retry import RetryPolicy
from hsl_model.protocol.states import NodePhase
from node_agent import rotation
from node_agent.consents import Consents
from node_agent.context import Context
from node_agent.coordinator_client import Boot, CoordinatorClient
from node_agent.daemon import Daemon
from node_agent.egress import EgressLedger, verify
from node_agent.enrol import Identity, load_identity
from node_agent.errands import Errands
from node_agent.errors import AlreadyRunningError
from node_agent.exchange import open_exchange
from node_agent.exchange.base import Exchange
from node_agent.exchange.pace import Pace
from node_agent.heartbeat import HeartbeatThread
from node_agent.hub_connection import HubConnection
from node_agent.journal import Journal
from node_agent.ledger_memory import LedgerMemory
from node_agent.mailbox import Mailbox
from node_agent.peers import Peers
from node_agent.phases import PHASES, PhaseFunction
from node_agent.poller import Poller
from node_agent.proxy import proxy_for, way_out
from node_agent.settings import NodeSettings
from node_agent.site_api import Site
from node_agent.site_server import SiteServer
from node_agent.store import Store

ExchangeFactory = Callable[[HubAddress, Path, str], Exchange]


def run_daemon(
    settings: NodeSettings,
    *,
    clock: Clock | None = None,
    phases: Mapping[NodePhase, PhaseFunction] = PHASES,
    exchange_factory: ExchangeFactory | None = None,
    http_transport: httpx.BaseTransport | None = None,
    retry: RetryPolicy | None = None,
    mailbox: Mailbox | None = None,
) -> None:
    """Run the agent of `settings.workdir` until `mailbox.stop()`. Raises `NotEnrolledError`, `AlreadyRunningError`."""
    clock, mailbox = clock or SystemClock(), mailbox or Mailbox()
    retry = retry or RetryPolicy(cap_s=settings.retry_cap_s)
    load_identity(settings)  # refuses a folder that is not an agent's before anything is written there
    with only_agent(settings.workdir):
        rotation.put_in_place(settings)
        identity = load_identity(settings)
        journal = Journal(settings.journal_path, clock)
        agent = _Agent(settings, identity, journal, clock, retry, mailbox)
        try:
            agent.run(phases, exchange_factory or paced_exchange(settings, clock), http_transport)
        finally:
            journal.close()


class _Agent:
    """The threads of one agent, from start to end."""

    def __init__(
        self,
        settings: NodeSettings,
        identity: Identity,
        journal: Journal,
        clock: Clock,
        retry: RetryPolicy,
        mailbox: Mailbox,
    ) -> None:
        self._settings, self._identity, self._journal = settings, identity, journal
        self._clock, self._retry, self._mailbox = clock, retry, mailbox
        self._ledger = EgressLedger(journal, clock)
        self._store = Store(settings.workdir / "store", journal)
        self._store.remove_orphans()
        self._memory = LedgerMemory(journal, clock)
        self._boot = Boot(journal.next_boot(), secrets.token_hex(16))
        mailbox.paused = journal.paused

    def run(
        self,
        phases: Mapping[NodePhase, PhaseFunction],
        exchange_factory: ExchangeFactory,
        http_transport: httpx.BaseTransport | None,
    ) -> None:
        settings, clock, mailbox = self._settings, self._clock, self._mailbox
        client, poll_client = self._client(http_transport), self._client(http_transport)
        consents = Consents(self._journal, clock)
        context = self._context(client, exchange_factory)
        server = SiteServer(lambda token: Site(context, consents, self._boot.number, token))
        threads = (
            HeartbeatThread(client, self._journal, mailbox, clock, settings.heartbeat_interval_s),
            Errands(self._context(client, exchange_factory), consents, self._retry),
        )
        poller = Poller(poll_client, mailbox, clock, settings.poll_wait_s, self._retry)
        server.start()
        try:
            for thread in (poller, *threads):
                thread.start()
            Daemon(context, phases, self._retry).run()
        finally:
            mailbox.stop()
            for thread in threads:
                thread.join(timeout=10.0)  # a transfer is cancelled between two blocks
            poller.join(timeout=0.1)  # a long poll under way has nothing to finish; it ends with the process
            self._ledger.flush()
            client.close()
            server.stop()

    def _client(self, transport: httpx.BaseTransport | None) -> CoordinatorClient:
        url = self._settings.coordinator_url or self._identity.node.coordinator_url
        return CoordinatorClient(
            url,
            self._ledger,
            token=lambda: self._identity.token,
            boot=self._boot,
            memory=self._memory,
            http_transport=transport or way_out(self._settings, url),
        )

    def _context(self, client: CoordinatorClient, exchange_factory: ExchangeFactory) -> Context:
        identity = self._identity
        hub = HubConnection(
            lambda key: exchange_factory(identity.node.hub, key, identity.node_id), identity, self._ledger, self._clock
        )
        return Context(
            settings=self._settings,
            identity=identity,
            clock=self._clock,
            journal=self._journal,
            store=self._store,
            ledger=self._ledger,
            client=client,
            mailbox=self._mailbox,
            hub=hub,
            peers=Peers(self._journal, self._clock),
            row=self._journal.current(),
        )


def paced_exchange(settings: NodeSettings, clock: Clock) -> ExchangeFactory:
    """Exchanges that keep the site's limits together, the round's and that of the errands beside it, by its proxy."""
    pace = Pace(
        clock,
        max_upload_bytes_per_s=settings.max_upload_bytes_per_s,
        max_download_bytes_per_s=settings.max_download_bytes_per_s,
    )

    def opened(hub: HubAddress, ssh_key: Path, node_id: str) -> Exchange:
        return open_exchange(hub, ssh_key, node_id, pace, proxy_for(settings, hub.host, hub.port))

    return opened


@contextmanager
def only_agent(workdir: Path) -> Iterator[None]:
    """One agent per folder: two would train the same round twice and write one journal. The lock dies with us."""
    workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = workdir / "agent.lock"
    with alone(lock, lambda: AlreadyRunningError(pid=lock.read_text().strip() or "unknown", workdir=workdir)):
        lock.write_text(str(os.getpid()))
        yield


def serve(settings: NodeSettings) -> None:
    """Run in the foreground; SIGTERM and Ctrl-C end the agent with a snapshot."""
    configure_logging(settings.log_level)
    os.umask(0o077)  # whatever this process and its child write is for their own user only
    mailbox = Mailbox()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        mailbox.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    run_daemon(settings, mailbox=mailbox)


def check_egress(settings: NodeSettings) -> str:
    """Follow the ledger's chain, offline; a sentence with its length and head. Raises `EgressBrokenError`."""
    journal = Journal(settings.journal_path, SystemClock())
    try:
        found = verify(journal)
    finally:
        journal.close()
    return (
        f"{found.num_entries} entries, {found.num_bytes} bytes left this site; head {found.head}; the chain is whole."
    )


def configure_logging(level: str) -> None:
    """JSON lines on stderr: one object per event, ready for whatever collects logs."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Without local variables: they hold the node's token.
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def main(arguments: list[str]) -> int:
    try:
        settings = NodeSettings()
    except ValidationError as error:
        for found in error.errors():
            name = f"HSL_NODE_{'_'.join(map(str, found['loc'])).upper()}"
            sys.stderr.write(f"{name}: {found['msg']}; set it in the environment.\n")
        return 2
    try:
        if arguments == ["egress"]:
            sys.stdout.write(check_egress(settings) + "\n")
        else:
            serve(settings)
    except HslError as error:
        sys.stderr.write(f"{error.sentence()}\n")
        return 1
    return 0
