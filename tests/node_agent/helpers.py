"""An agent in a thread of this process, against an `Alliance`."""

import sys
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from hsl_data.binding import SiteBinding
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.retry import RetryPolicy
from node_agent.bindings import BindingFile, write_binding
from node_agent.enrol import enrol
from node_agent.exchange.base import Exchange
from node_agent.exchange.directory import DirectoryExchange
from node_agent.journal import Journal, PhaseRow
from node_agent.mailbox import Mailbox
from node_agent.main import run_daemon
from node_agent.phases import PHASES
from node_agent.settings import NodeSettings
from node_agent.site_api import SiteFile
from tests.node_agent.alliance import Alliance, until

FAKE_TRAINER = Path(__file__).with_name("fake_trainer.py")
FAST = RetryPolicy(base_s=0.01, cap_s=0.05)


class Hospital:
    """One site: its folder, and its agent while `running()`."""

    def __init__(self, folder: Path, alliance: Alliance, *trainer_options: str | Path, **settings: Any) -> None:
        self.alliance = alliance
        self.settings = NodeSettings(
            workdir=folder,
            coordinator_url="http://coordinator",
            trainer_command=(sys.executable, "-I", "-S", str(FAKE_TRAINER), *map(str, trainer_options)),
            poll_wait_s=1.0,
            heartbeat_interval_s=30.0,
            **settings,
        )
        self.failure: BaseException | None = None
        self.mailbox = Mailbox()

    def join(self) -> "Hospital":
        enrol(self.settings, "http://coordinator", "right-code", http_transport=self.alliance.transport())
        binding = SiteBinding(
            task_id="fracture",
            reader="npz",
            path=self.settings.workdir / "images.npz",
            classes={"broken": "fracture", "intact": "normal"},
        )
        write_binding(self.settings, BindingFile(binding=binding))
        return self

    def exchange(self, *_: object) -> Exchange:
        return DirectoryExchange(self.alliance.hub, "hospital-a")

    def serve(self, phases: Mapping[Any, Any] = PHASES, **changes: Any) -> None:
        """Run the agent here until it stops or dies of a BaseException."""
        try:
            run_daemon(
                self.settings,
                phases=phases,
                exchange_factory=changes.pop("exchange_factory", self.exchange),
                http_transport=self.alliance.transport(),
                retry=FAST,
                mailbox=self.mailbox,
            )
        except BaseException as error:  # noqa: BLE001 - the tests look at it
            self.failure = error
            self.mailbox.nudge()
            with self.alliance.changed:
                self.alliance.changed.notify_all()

    @contextmanager
    def running(self, phases: Mapping[Any, Any] = PHASES, **changes: Any):
        self.mailbox = Mailbox()
        thread = threading.Thread(target=self.serve, args=(phases,), kwargs=changes)
        thread.start()
        try:
            self.wait(lambda: self.settings.site_file.exists() or self.failure)
            yield self
        finally:
            self.mailbox.stop()
            self.alliance.change()  # ends the long poll that is under way
            thread.join(timeout=20)
            assert not thread.is_alive(), "the agent did not end"

    def row(self) -> PhaseRow:
        journal = Journal(self.settings.journal_path, SystemClock())
        try:
            return journal.current()
        finally:
            journal.close()

    def wait(self, condition: Any, timeout_s: float = 20.0) -> None:
        """Until something of the agent's own is so."""
        assert until(self.mailbox.changed, condition, timeout_s), (self.row(), self.alliance.describe())

    def site(self) -> httpx.Client:
        found = SiteFile.model_validate_json(self.settings.site_file.read_bytes())
        return httpx.Client(base_url=found.url, headers={"Authorization": f"Bearer {found.token}"}, timeout=20)

    def asked_trainer(self) -> list[str]:
        log = self.settings.workdir / "runs" / "asked.jsonl"
        return log.read_text().splitlines() if log.exists() else []
