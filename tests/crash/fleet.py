"""Hub, coordinator and three agents, forked from this one warm process: what a start costs is the product's own.

The product's code, real SFTP over loopback, real SQLite files; the training child is the fake one of
`tests/node_agent`. Sizes are the product's on a scale of 1:32 (blocks of 1 KiB, a resume rewinds 32 KiB), so that a
network of 64 kB has as many blocks as one of 2 MB.
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal

import coordinator.main
import embedded_hub.main
import node_agent.main
import sftpgo_hub.main
from coordinator.app import create_app
from coordinator.settings import CoordinatorSettings
from embedded_hub.settings import HubSettings as EmbeddedSettings
from hsl_cli.demo.ports import choose_ports
from hsl_data.site import SiteBinding
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.retry import RetryPolicy
from node_agent.bindings import BindingFile, write_binding
from node_agent.consents import Answer, Consents
from node_agent.enrol import enrol
from node_agent.exchange import base, pipeline, reads, sftp
from node_agent.heartbeat import HeartbeatThread
from node_agent.journal import Journal
from node_agent.phases import PHASES
from node_agent.settings import NodeSettings
from sftpgo_hub.settings import HubSettings as SftpgoSettings
from tests.crash import plan, power, wraps
from tests.crash.points import Watch
from tests.e2e.alliance import SMALLEST, TASK

SITES = ("site-1", "site-2", "site-3")
ROLES = ("hub", "coordinator", *SITES)
NUM_ROUNDS = 3
NUM_WEIGHTS = 16_384
SCALE = 32
FAKE_TRAINER = Path(__file__).parent.parent / "node_agent" / "fake_trainer.py"
FAST = RetryPolicy(base_s=0.02, cap_s=0.2)
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG: a runner that is broken off leaves nothing behind
ABSENT = "0" * 64  # digest of a SAT bundle that the fake training child never reads


def scale_down() -> None:
    """Constants of the product, before any process is forked. What they mean to each other stays."""
    for name in (
        "WRITE_BLOCK",
        "SEND_BATCH",
        "UPLOAD_IN_FLIGHT",
        "MOST_UPLOAD_IN_FLIGHT",
        "DOWNLOAD_IN_FLIGHT",
        "MOST_DOWNLOAD_IN_FLIGHT",
    ):
        setattr(pipeline, name, getattr(pipeline, name) // SCALE)
    reads.READ_BLOCK //= SCALE
    base.MIB //= SCALE
    sftp.MIB //= SCALE  # type: ignore[attr-defined]


@dataclass
class Machine:
    """One role's process and folder. The folder is all that a restart finds; `shadow` what a power cut leaves of it."""

    role: str
    folder: Path
    shadow: Path | None = None
    pid: int | None = None
    num_deaths: int = 0


@dataclass
class Fleet:
    """One worker's: ports and the enrolled template are made once, then each run is a copy of it."""

    root: Path
    hub_kind: Literal["embedded", "sftpgo"] = "embedded"
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    hub_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def __post_init__(self) -> None:
        ports = choose_ports(None)
        self.port = ports.coordinator
        self._hub_ports = {"port": ports.hub, "admin_port": ports.hub_admin}
        if self.hub_kind == "sftpgo":
            self._hub_ports |= {"rest_port": ports.hub_rest, "metrics_port": ports.hub_metrics}
        self.app = create_app(
            CoordinatorSettings(
                host="127.0.0.1",
                port=self.port,
                workdir=Path("/proc/self/cwd"),  # of whichever process has forked
                admin_token=self.token,
                hub_kind=self.hub_kind,
                hub_admin_url=f"http://127.0.0.1:{ports.hub_admin}",
                hub_admin_token=self.hub_token,
                tick_interval_s=0.2,
                log_level="warning",
            )
        )
        self.run_id = ""
        self.template = self.root / "template"

    def folder_of(self, run: str) -> Path:
        """SFTPGo keeps where its files are: with it every run is in the place where the template was made."""
        return self.root / (run if self.hub_kind == "embedded" else "run")

    # --- processes ---------------------------------------------------------------------------------------------------

    def fork(self, machine: Machine, watch: Watch) -> None:
        work = {"hub": self._hub, "coordinator": self._coordinator}.get(machine.role, self._agent)
        machine.folder.mkdir(parents=True, exist_ok=True)
        if machine.shadow is not None:
            power.remember(machine.folder, machine.shadow)
        with (watch.folder / f"{machine.role}.log").open("ab") as log:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid:
                machine.pid = pid
                if machine.role == "hub":  # whole at any moment: who kills the hub reads it
                    (watch.folder / "hub.pid.new").write_text(str(pid))
                    (watch.folder / "hub.pid.new").rename(watch.folder / "hub.pid")
                return
            if machine.shadow is not None:
                power.watch(machine.folder, machine.shadow)
                watch.before_power_cut = power.cut
            _become(lambda: work(watch), machine.folder, log.fileno())

    def _hub(self, watch: Watch) -> None:
        settings = {"root": Path(), "admin_token": self.hub_token, "log_level": "warning", **self._hub_ports}
        if self.hub_kind == "sftpgo":  # another program: only its death can be had
            sftpgo_hub.main.serve(SftpgoSettings.model_validate(settings))
            return
        wraps.wrap_files(watch)
        wraps.wrap_hub(watch)
        embedded_hub.main.serve(EmbeddedSettings.model_validate(settings))

    def _coordinator(self, watch: Watch) -> None:
        watch.phase = "tick"
        wraps.wrap_files(watch)
        wraps.wrap_sqlite(watch)
        wraps.wrap_http(watch)
        self.app.add_middleware(wraps.Requests, watch=watch)
        coordinator.main.create_app = lambda *_, **__: self.app
        coordinator.main.serve(self.app.state.kernel.settings)

    def _agent(self, watch: Watch) -> None:
        wraps.wrap_files(watch)
        wraps.wrap_sqlite(watch)
        wraps.wrap_http(watch)
        wraps.wrap_transfer(watch)
        node_agent.main.configure_logging("info")
        os.umask(0o077)
        if watch.role != plan.ORDINARY:  # two thirds of all messages would be heartbeats of sites that nobody strikes
            HeartbeatThread._has_news = lambda self, _: self._mailbox.stopping  # type: ignore[method-assign]
        node_agent.main.run_daemon(self._settings(Path()), phases=wraps.wrap_phases(PHASES, watch), retry=FAST)

    @staticmethod
    def _settings(workdir: Path) -> NodeSettings:
        trainer = (sys.executable, "-I", "-S", str(FAKE_TRAINER), "--weights", str(NUM_WEIGHTS))
        return NodeSettings(workdir=workdir, trainer_command=trainer, heartbeat_interval_s=5.0)

    # --- asking from outside -----------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """The coordinator's answer; None while it is down or refuses."""
        line = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            line.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
            answer = line.getresponse()
            raw = answer.read()
        except (OSError, HTTPException):
            return None
        finally:
            line.close()
        found: dict[str, Any] = json.loads(raw)
        return found if answer.status < 300 else None

    # --- the template ------------------------------------------------------------------------------------------------

    def make_template(self) -> None:
        """Three sites are enrolled, their data bound, the run drafted, and their admins have said yes in advance."""
        place = self.folder_of("template")
        watch = {role: Watch(role, self.root) for role in ROLES}
        machines = {role: Machine(role, place / role) for role in ("hub", "coordinator")}
        for role, machine in machines.items():
            self.fork(machine, watch[role])
        wait_until(lambda: (machines["hub"].folder / "hub.json").exists() and self.ask("GET", "/nodes"), "a template")
        for site in SITES:
            made = wait_until(
                lambda site=site: self.ask("POST", "/nodes", {"node_id": site, "display_name": site}), site
            )
            enrol(self._settings(place / site), f"http://127.0.0.1:{self.port}", made["code"])
        config = RunConfig.model_validate(
            {
                "name": "crash",
                "task": TASK,
                "nodes": SITES,
                "sat_digest": ABSENT,
                "num_rounds": NUM_ROUNDS,
                "quorum": {"min_nodes": len(SITES), "required_nodes": SITES},
                **SMALLEST,
            }
        )
        drafted = wait_until(lambda: self.ask("POST", "/runs", config.model_dump(mode="json")), "a run")
        self.run_id = drafted["run_id"]
        for machine in machines.values():
            end(machine)
        for site in SITES:
            self._say_yes(place / site)
        place.rename(self.template)

    def _say_yes(self, folder: Path) -> None:
        binding = SiteBinding(
            task_id=TASK["task_id"],
            reader="npz",
            path=Path("/images.npz"),
            classes={"fractured": "fractured", "intact": "intact"},
        )
        write_binding(self._settings(folder), BindingFile(binding=binding, sat_path=Path("/sat.safetensors")))
        journal = Journal(self._settings(folder).journal_path, SystemClock())
        consents = Consents(journal, SystemClock())
        consents.invite(self.run_id, TASK["task_id"])
        consents.answer(self.run_id, Answer.ACCEPT)
        journal.close()


def _become(work: Callable[[], object], folder: Path, log: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        threading.current_thread().name = "MainThread"
        work()
        code = 0
    except SystemExit as ended:
        code = int(bool(ended.code))
    except BaseException:  # noqa: BLE001 - as the interpreter would
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def end(machine: Machine) -> None:
    """SIGKILL to it and whatever it started."""
    if machine.pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(machine.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(machine.pid, signal.SIGKILL)  # in the moment before it has a group of its own
    os.waitpid(machine.pid, 0)
    machine.pid = None


def wait_until(found: Callable[[], Any], what: str, patience_s: float = 120.0) -> Any:
    """What `found` returns once it is true."""
    clock, wake = SystemClock(), threading.Condition()
    deadline_s = clock.monotonic() + patience_s
    while not (result := found()):
        if clock.monotonic() > deadline_s:
            raise TimeoutError(f"waited {patience_s:.0f} s for {what}")
        with wake:
            clock.wait(wake, 0.02)
    return result


def new_root() -> Path:
    """In memory where that is possible: nothing of it has to survive this process."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="hsl-crash-", dir=memory if memory.is_dir() else None))
