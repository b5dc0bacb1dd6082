"""From nothing to a running run: each step asks first whether it was done before, so a second start continues."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from hsl_cli.demo.images import DemoImages
from hsl_cli.demo.processes import Program, Supervisor
from hsl_cli.demo.settings import Memory
from hsl_cli.demo.workdir import Layout, remember
from hsl_cli.errors import CommandError, RefusedError, UnreachableError
from hsl_cli.options import Site
from hsl_cli.paths import NODES, RUNS, node_path, run_path, site_run_path
from hsl_cli.service import Service
from hsl_model.protocol.config import (
    ConvergenceConfig,
    InitialWeights,
    MethodConfig,
    NetworkConfig,
    QuorumConfig,
    RunConfig,
    TrainingConfig,
)
from hsl_model.protocol.retry import TRANSIENT
from hsl_model.protocol.states import MembershipStatus, NodePhase, RunStatus
from hsl_model.protocol.views import NodeCreated, NodeView, RunView
from node_agent.coordinator_client import CoordinatorError
from node_agent.enrol import enrol
from node_agent.status import RunSummary, SiteStatus
from sftpgo_hub.program import find_program

Answer = TypeVar("Answer")
START_TIMEOUT_S = 60.0  # a service that cannot start must fail the demo instead of hanging it
ACCEPT_TIMEOUT_S = 300.0  # a site reads, checks and splits its images before it accepts
RUN_NAME = "demo"


@dataclass
class Alliance:
    """The demo's alliance while it is being brought up."""

    layout: Layout
    memory: Memory
    processes: Supervisor
    note: Callable[[str], None]

    def coordinator(self) -> Service:
        return Service(self.memory.url, self.memory.admin_token, name="the coordinator")

    def start_services(self) -> None:
        ready = self.layout.hub / "hub.json"
        ready.unlink(missing_ok=True)
        self.processes.start(hub_program(self.layout, self.memory))
        self.processes.wait_for(ready.exists, "hub", START_TIMEOUT_S)
        self.processes.start(coordinator_program(self.layout, self.memory))
        self.processes.wait_for(self._coordinator_ready, "coordinator", START_TIMEOUT_S)
        self.note(
            f"coordinator at {self.memory.url}, {self.memory.choices.hub} hub at 127.0.0.1:{self.memory.ports.hub}"
        )

    def _coordinator_ready(self) -> bool:
        with self.coordinator() as coordinator:
            try:
                coordinator.call("GET", "/readyz")
            except CommandError:
                return False
        return True

    def start_sites(self, images: DemoImages) -> None:
        """Enrol and bind every site that has not been, then start the agents."""
        nodes = self.memory.choices.node_ids()
        for node_id in nodes:
            self._ask("coordinator", partial(self._enrol, node_id))
            images.bind(node_id, self.layout.site(node_id))
        for node_id in nodes:
            (self.layout.site(node_id) / "site.json").unlink(missing_ok=True)
            self.processes.start(agent_program(self.layout, self.memory, node_id))
        for node_id in nodes:
            self.processes.wait_for((self.layout.site(node_id) / "site.json").exists, node_id, START_TIMEOUT_S)
        self.note(f"{len(nodes)} agents are running")

    def _ask(self, name: str, action: Callable[[], Answer]) -> Answer:
        """Any process may be killed and restarted at any moment: every step here may be repeated."""
        return self.processes.insist(action, name, START_TIMEOUT_S)

    def _enrol(self, node_id: str) -> None:
        settings = Site(workdir=self.layout.site(node_id)).settings()
        if (settings.workdir / "node.json").exists():  # written last: the enrolment was complete
            return
        with self.coordinator() as coordinator:
            known = {node.node_id for node in coordinator.all(NODES, NodeView)}
            if node_id not in known:
                made = coordinator.post(NODES, NodeCreated, {"node_id": node_id, "display_name": node_id})
            else:
                made = coordinator.post(f"{node_path(node_id)}/code", NodeCreated)
        try:
            enrol(settings, self.memory.url, made.code)
        except CoordinatorError as error:
            if TRANSIENT[error.kind]:
                raise UnreachableError(reason=error.sentence()) from error
            raise

    def ensure_run(self, images: DemoImages) -> str:
        """The demo's run: created, accepted by every site, started. Returns its id."""
        run = self._ask("coordinator", partial(self._find_or_create, images))
        self.memory = self.memory.model_copy(update={"run_id": run.run_id})
        remember(self.layout, self.memory)
        if run.status is not RunStatus.DRAFT:
            self.note(f"run {run.run_id} continues; it is {run.status}")
            for node_id in self.memory.choices.node_ids():
                self._ask(node_id, partial(self._retry_if_failed, node_id))
            if run.status is RunStatus.PAUSED:
                self.note(f"let it go on with `hsl run resume {run.run_id} --workdir {self.layout.root}`")
            return run.run_id
        for member in run.members:
            if member.status is MembershipStatus.INVITED:
                self.processes.wait_for(
                    partial(self._accepted, member.node_id, run.run_id), member.node_id, ACCEPT_TIMEOUT_S
                )
                self.note(f"{member.node_id} accepted")
        self._ask("coordinator", partial(self._start, run.run_id))
        self.note(f"run {run.run_id} started: {run.config.method.name}, {run.num_rounds} rounds")
        return run.run_id

    def _find_or_create(self, images: DemoImages) -> RunView:
        """Also finds a run that was created just before the demo was killed and could remember it."""
        with self.coordinator() as coordinator:
            if self.memory.run_id is not None:
                return coordinator.get(run_path(self.memory.run_id), RunView)
            known = next((run for run in coordinator.all(RUNS, RunView) if run.name == RUN_NAME), None)
            return known or coordinator.post(RUNS, RunView, run_config(self.memory, images))

    def _start(self, run_id: str) -> None:
        with self.coordinator() as coordinator:
            coordinator.post(f"{run_path(run_id)}/start", RunView)

    def _retry_if_failed(self, node_id: str) -> None:
        """A site that failed for good before is told to try again: that is what starting the demo again means."""
        with Site(workdir=self.layout.site(node_id)).open() as site:
            if site.get("/status", SiteStatus).phase is NodePhase.FAILED:
                site.post("/retry", SiteStatus)

    def _accepted(self, node_id: str, run_id: str) -> bool:
        """Say yes in the name of the site's admin; False while the invitation or the answer is still on its way."""
        try:
            with Site(workdir=self.layout.site(node_id)).open() as site:
                summary = site.post(f"{site_run_path(run_id)}/accept", RunSummary)
        except UnreachableError:
            return False
        except RefusedError as error:
            if error.data.get("status") == 404:
                return False
            raise
        if summary.problem is not None:
            raise RefusedError(reason=f"{node_id} cannot take part: {summary.problem}")
        return summary.told


def hub_program(layout: Layout, memory: Memory) -> Program:
    layout.hub.mkdir(parents=True, exist_ok=True)
    environment = {
        "HSL_HUB_ROOT": str(layout.hub),
        "HSL_HUB_HOST": "127.0.0.1",
        "HSL_HUB_PORT": str(memory.ports.hub),
        "HSL_HUB_ADMIN_PORT": str(memory.ports.hub_admin),
        "HSL_HUB_ADMIN_TOKEN": memory.hub_admin_token,
    }
    if memory.choices.hub == "embedded":
        return Program("hub", "embedded_hub", environment)
    server = {
        "HSL_HUB_REST_PORT": str(memory.ports.hub_rest),
        "HSL_HUB_METRICS_PORT": str(memory.ports.hub_metrics),
        "HSL_SFTPGO": str(find_program()),
    }
    return Program("hub", "sftpgo_hub", {**environment, **server})


def coordinator_program(layout: Layout, memory: Memory) -> Program:
    layout.coordinator.mkdir(parents=True, exist_ok=True)
    environment = {
        "HSL_COORDINATOR_HOST": "127.0.0.1",
        "HSL_COORDINATOR_PORT": str(memory.ports.coordinator),
        "HSL_COORDINATOR_ADMIN_TOKEN": memory.admin_token,
        "HSL_COORDINATOR_HUB_KIND": memory.choices.hub,
        "HSL_COORDINATOR_HUB_ADMIN_URL": json.loads((layout.hub / "hub.json").read_text())["admin_url"],
        "HSL_COORDINATOR_HUB_ADMIN_TOKEN": memory.hub_admin_token,
        "HSL_COORDINATOR_WORKDIR": str(layout.coordinator),
    }
    return Program("coordinator", "coordinator", environment)


def agent_program(layout: Layout, memory: Memory, node_id: str) -> Program:
    environment = {
        "HSL_NODE_WORKDIR": str(layout.site(node_id)),
        "HSL_NODE_COORDINATOR_URL": memory.url,
        "HSL_NODE_DEVICE": memory.choices.device,
        "HSL_NODE_HEARTBEAT_INTERVAL_S": "2",  # so that the screen moves
    }
    return Program(node_id, "node_agent", environment)


def run_config(memory: Memory, images: DemoImages) -> RunConfig:
    """Every site required and no deadline, so that the result is the same whatever is killed meanwhile."""
    choices = memory.choices
    method = MethodConfig(name=choices.method)
    return RunConfig(
        name=RUN_NAME,
        task=images.task,
        nodes=choices.node_ids(),
        method=method,
        network=NetworkConfig(encoder=choices.encoder),
        training=TrainingConfig(
            batch_size=choices.batch_size,
            local_epochs=choices.epochs,
            mixed_precision=choices.device == "cuda",
        ),
        seed=choices.seed,
        num_rounds=choices.rounds,
        convergence=ConvergenceConfig(enabled=False),  # so many rounds as were asked for
        quorum=QuorumConfig(min_nodes=choices.sites, required_nodes=choices.node_ids()),
        initial=InitialWeights(seed=choices.seed),
        sat_digest=images.sat_digest,
    )
