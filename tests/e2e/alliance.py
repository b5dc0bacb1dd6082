"""A whole alliance as real processes, for tests: hub, coordinator, agents; each can be killed and is started again."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hsl_cli.demo.ports import choose_ports
from hsl_data.phantoms import write_phantom_sat, write_phantom_sites
from hsl_data.sat import SatFacts
from hsl_data.site import SiteBinding
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.views import RoundView, RunView
from node_agent.bindings import BindingFile, write_binding
from node_agent.coordinator_client import CoordinatorError
from node_agent.enrol import enrol
from node_agent.settings import NodeSettings

ROOT = Path(__file__).parent.parent.parent
TASK = {
    "task_id": "fracture",
    "positive_class": "fractured",
    "negative_class": "intact",
    "modality": "radiograph",
    "channels": 1,
    "height": 16,
    "width": 16,
}
SMALLEST = {
    "network": {"encoder": "resnet_small"},
    "training": {"batch_size": 8, "local_epochs": 2, "images_per_epoch": 24, "num_anchors": 4},
    "convergence": {"enabled": False},
}
PATIENCE_S = 1500.0  # a test that waits longer has found a hang; a busy machine is no failure


@dataclass
class Service:
    """One process. `module` may be a wrapper of tests/e2e that kills itself at a named point."""

    name: str
    module: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    num_kills: int = 0

    def start(self) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HSL_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module], env={**clean, **self.environment}, stdout=log, stderr=log, cwd=ROOT
            )

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def revive(self) -> None:
        """Start it again if it died by SIGKILL; anything else is a failure of the product."""
        assert self.process is not None
        code = self.process.poll()
        if code is None:
            return
        assert code == -signal.SIGKILL, f"{self.name} ended with {code}:\n{self.tail()}"
        self.num_kills += 1
        self.start()

    def tail(self, num_lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-num_lines:])


@dataclass
class Alliance:
    root: Path
    num_sites: int = 3
    seed: int = 3
    agent_module: str = "node_agent"
    coordinator_module: str = "coordinator"
    hub_module: str = "embedded_hub"
    trainer_command: str | None = None  # JSON; the product's own if left out
    agent_environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by node id
    coordinator_environment: Mapping[str, str] = field(default_factory=dict)
    hub_environment: Mapping[str, str] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.hub_token = secrets.token_urlsafe(32)
        ports = choose_ports(None)
        self.port, self.hub_port, self.hub_admin_port = ports.coordinator, ports.hub, ports.hub_admin
        self.url_of_agents = self.url
        self.node_ids = tuple(f"site-{number}" for number in range(1, self.num_sites + 1))
        self.http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Alliance":
        (self.root / "logs").mkdir(parents=True)
        paths = write_phantom_sites(self.root / "data", self.num_sites, cases_per_site=60, size=16, seed=self.seed)
        self.data = dict(zip(self.node_ids, paths, strict=True))
        self.sat: SatFacts = write_phantom_sat(self.root / "data" / "sat.safetensors", per_class=12, size=16, seed=9)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        for service in reversed(self.services.values()):
            if service.process is not None and service.process.poll() is None:
                service.process.terminate()
        for service in self.services.values():
            if service.process is not None:
                try:
                    service.process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    service.kill()
        self.http.close()

    # --- bringing it up ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        ready = self.root / "hub" / "hub.json"
        self._add("hub", self.hub_module, {**self._hub_environment(), **self.hub_environment})
        self.wait_until(ready.exists, "the hub to listen")
        self._add("coordinator", self.coordinator_module, {**self._coordinator(), **self.coordinator_environment})
        self.wait_until(self._answers, "the coordinator to answer")
        for node_id in self.node_ids:
            self.enrol(node_id)
        for node_id in self.node_ids:
            self.start_agent(node_id)

    def enrol(self, node_id: str) -> None:
        settings = self.settings(node_id)
        code = self.post("/nodes", {"node_id": node_id, "display_name": node_id})["code"]
        self._enrol(settings, code)
        write_binding(settings, BindingFile(binding=self.binding(node_id), sat_path=self.root / "data/sat.safetensors"))

    def _enrol(self, settings: NodeSettings, code: str) -> None:
        """As a person does who reads that the line was down: the same command again."""
        for _ in range(3):
            try:
                enrol(settings, self.url_of_agents, code)
                return
            except CoordinatorError as error:
                if error.kind is not FailureKind.CONNECTION:
                    raise
        raise AssertionError(f"three times no answer from {self.url_of_agents}")

    def binding(self, node_id: str) -> SiteBinding:
        return SiteBinding(
            task_id=TASK["task_id"],
            reader="npz",
            path=self.data[node_id],
            classes={"fractured": "fractured", "intact": "intact"},
        )

    def settings(self, node_id: str) -> NodeSettings:
        return NodeSettings(workdir=self.root / node_id)

    def start_agent(self, node_id: str) -> None:
        environment = {
            "HSL_NODE_WORKDIR": str(self.root / node_id),
            "HSL_NODE_SNAPSHOT_EVERY_STEPS": "2",
            "HSL_NODE_HEARTBEAT_INTERVAL_S": "1",
            "HSL_NODE_RETRY_CAP_S": "1",
            **({} if self.trainer_command is None else {"HSL_NODE_TRAINER_COMMAND": self.trainer_command}),
            **self.agent_environment.get(node_id, {}),
        }
        self._add(node_id, self.agent_module, environment)

    def create_run(self, num_rounds: int = 2, **changes: Any) -> str:
        config = {
            "name": "trial",
            "task": TASK,
            "nodes": self.node_ids,
            "sat_digest": self.sat.digest,
            "num_rounds": num_rounds,
            "quorum": {"min_nodes": self.num_sites, "required_nodes": self.node_ids},
            **SMALLEST,
            **changes,
        }
        checked = RunConfig.model_validate(config)
        run_id: str = self.post("/runs", checked.model_dump(mode="json"))["run_id"]
        return run_id

    def accept_everywhere(self, run_id: str) -> None:
        for node_id in self.node_ids:
            self.wait_until(lambda node_id=node_id: self.accept(node_id, run_id), f"{node_id} to accept")
        self.wait_until(
            lambda: all(member.status == "accepted" for member in self.run(run_id).members), "all sites to be members"
        )

    def accept(self, node_id: str, run_id: str) -> bool:
        return self.site(node_id, "POST", f"/runs/{run_id}/accept").status_code < 300

    def site(self, node_id: str, method: str, path: str, body: object = None) -> httpx.Response:
        """The site API of one agent. 599 while the agent is not up."""
        try:
            site = json.loads((self.root / node_id / "site.json").read_text())
            headers = {"Authorization": f"Bearer {site['token']}"}
            return httpx.request(method, site["url"] + path, json=body, headers=headers, timeout=30)
        except (FileNotFoundError, httpx.TransportError, json.JSONDecodeError):
            return httpx.Response(599)

    # --- watching it -------------------------------------------------------------------------------------------------

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def run(self, run_id: str) -> RunView:
        return RunView.model_validate_json(self.http.get(f"/runs/{run_id}").raise_for_status().content)

    def rounds(self, run_id: str) -> list[RoundView]:
        answer = self.http.get(f"/runs/{run_id}/rounds", params={"limit": 100}).raise_for_status()
        return [RoundView.model_validate(item) for item in answer.json()["items"]]

    def start_run(self, run_id: str) -> None:
        self.accept_everywhere(run_id)
        self.post(f"/runs/{run_id}/start")

    def wait_for_end(self, run_id: str) -> list[RoundView]:
        self.wait_until(lambda: self.run(run_id).status in ("completed", "stopped", "failed"), f"{run_id} to end")
        run = self.run(run_id)
        assert run.status == "completed", run
        return self.rounds(run_id)

    def wait_until(self, condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Poll `condition`; what was killed meanwhile is started again, a coordinator that is down is waited for."""
        deadline = time.monotonic() + patience_s
        while True:
            for service in self.services.values():
                service.revive()
            try:
                if condition():
                    return
            except httpx.TransportError:
                pass  # the coordinator was killed just now; it is revived in the next turn
            assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}\n{self._tails()}"
            time.sleep(0.2)  # noqa: TID251 - watching processes from outside

    def _tails(self) -> str:
        return "\n".join(f"--- {name}\n{service.tail(4)}" for name, service in self.services.items())

    def _add(self, name: str, module: str, environment: dict[str, str]) -> None:
        service = Service(name, module, environment, self.root / "logs" / f"{name}.log")
        self.services[name] = service
        service.start()

    def _answers(self) -> bool:
        return httpx.get(f"{self.url}/readyz", timeout=5).is_success

    def _hub_environment(self) -> dict[str, str]:
        (self.root / "hub").mkdir(exist_ok=True)
        return {
            "HSL_HUB_ROOT": str(self.root / "hub"),
            "HSL_HUB_HOST": "127.0.0.1",
            "HSL_HUB_PORT": str(self.hub_port),
            "HSL_HUB_ADMIN_PORT": str(self.hub_admin_port),
            "HSL_HUB_ADMIN_TOKEN": self.hub_token,
        }

    def _coordinator(self) -> dict[str, str]:
        return {
            "HSL_COORDINATOR_DATABASE_URL": f"sqlite:///{self.root / 'coordinator.db'}",
            "HSL_COORDINATOR_HOST": "127.0.0.1",
            "HSL_COORDINATOR_PORT": str(self.port),
            "HSL_COORDINATOR_ADMIN_TOKEN": self.token,
            "HSL_COORDINATOR_HUB_ADMIN_URL": f"http://127.0.0.1:{self.hub_admin_port}",
            "HSL_COORDINATOR_HUB_ADMIN_TOKEN": self.hub_token,
            "HSL_COORDINATOR_TICK_INTERVAL_S": "0.2",
            "HSL_COORDINATOR_WORKDIR": str(self.root),
        }


def digests(rounds: list[RoundView]) -> list[str | None]:
    """The fused digest of every round, after checking that every node reported that very one."""
    for one in rounds:
        assert one.status == "completed", one
        assert {p.fused_digest for p in one.participations} == {one.fused_digest}, one
    return [one.fused_digest for one in sorted(rounds, key=lambda one: one.round_number)]
