"""The story that run.sh tells: install, join, train, kill, go on, look into everything, back up, restore, upgrade.

hub up ── 3 sites join ── run starts ── round 1 … kill coordinator and a site ── both again ── round 2 ── equal digests
   └ refuses without secrets                                                        └ users, health, size, secrets
back up ── new machine ── restore ── the same ledger ── upgrade
"""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from hsl_data.phantoms import write_phantom_sat, write_phantom_sites
from tests.compose import checks
from tests.compose.engine import Engine, EngineMissing, KernelForbids, running_engine, say
from tests.compose.images import DEPENDENCIES, make_standins
from tests.compose.machines import Machine, code_in, until

GATEWAY = "172.17.0.1"  # how containers reach what this machine publishes, as a site reaches the hub's machine
SITES = ("site-1", "site-2", "site-3")
IMAGE_SIZE, CASES = 32, 60
TASK = "phantom-fractures"
RUN = f"""
name = "in containers"
nodes = [{", ".join(f'"{name}"' for name in SITES)}]
num_rounds = 2
sat_digest = "SAT_DIGEST"
convergence = {{ enabled = false }}
quorum = {{ min_nodes = 3 }}
network = {{ encoder = "resnet_small" }}
training = {{ batch_size = 16, local_epochs = 2, images_per_epoch = 192 }}

[task]
task_id = "{TASK}"
positive_class = "fractured"
negative_class = "intact"
modality = "phantom radiograph"
height = {IMAGE_SIZE}
width = {IMAGE_SIZE}
"""


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="hsl-compose-"))
    try:
        with running_engine(folder) as engine:
            alliance = Alliance(engine)
            try:
                alliance.story()
            finally:
                alliance.clear()
    except KernelForbids as reason:
        say(f"NOT RUN: {reason}. Nothing can be installed to change that.")
        return 0
    except EngineMissing as reason:
        say(f"NOT RUN: {reason}.")
        return 1 if os.environ.get("CI") == "true" else 0
    except (AssertionError, RuntimeError) as reason:
        say(f"FAILED: {reason}")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say("passed")
    return 0


class Alliance:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.ports = free_ports(3)
        self.hub = Machine.make(engine, "hub", "hub", self._hub_settings())
        self.sites = [Machine.make(engine, name, "site", {"HSL_NODE_DEPENDENCIES": DEPENDENCIES}) for name in SITES]

    def _hub_settings(self) -> dict[str, str]:
        https, http, sftp = map(str, self.ports)
        names = {"HSL_DOMAIN": GATEWAY, "HSL_ALLIANCE": "Alliance in containers"}
        return {**names, "HSL_HTTPS_PORT": https, "HSL_HTTP_PORT": http, "HSL_HUB_PORT": sftp}

    def clear(self) -> None:
        for machine in (self.hub, *self.sites):
            machine.shell("docker compose --profile hub --profile site down --volumes --timeout 1")

    def story(self) -> None:
        config = checks.clean_configuration(self.hub)
        make_standins(self.engine, config["services"]["postgres"]["image"])
        self.install()
        self.join()
        run_id = self.start()
        self.disturb(run_id)
        self.finish(run_id)
        checks.ordinary_users((self.hub, *self.sites))
        checks.image_size(self.engine)
        checks.no_secret_anywhere(self.hub, self.sites)
        checks.health_of_what_hangs(self.hub, self.sites[2])
        self.operate(run_id)

    def install(self) -> None:
        checks.refuses_a_start_without_secrets(self.hub)
        self.hub.follow("install")

    def join(self) -> None:
        images = self.engine.folder / "images"
        paths = write_phantom_sites(images, len(SITES), CASES, IMAGE_SIZE, seed=1)
        self.sat = write_phantom_sat(images / "sat.safetensors", 20, IMAGE_SIZE, seed=1)
        for path in (images, *images.iterdir()):
            path.chmod(0o755)
        checks.refuses_a_start_without_a_code(self.sites[0])
        for site, path in zip(self.sites, paths, strict=True):
            code = code_in(self.hub.follow("invite", NODE=site.name))
            shutil.copy(self.hub.folder / "coordinator-ca.pem", site.folder)
            url = f"https://{GATEWAY}:{self.ports[0]}"
            site.words = {"URL": url, "CODE": code, "IMAGES": str(images), "DATA": path.name, "TASK": TASK}
            site.words["SAT"] = "sat.safetensors"
            site.follow("join")

    def start(self) -> str:
        for site in self.sites:
            site.follow("bind")
        (self.hub.folder / "run.toml").write_text(RUN.replace("SAT_DIGEST", self.sat.digest))
        self.hub.follow("create")
        (run,) = self.hub.ask("coordinator", "run", "list")
        for site in self.sites:
            until(lambda site=site: bool(site.ask("node", "node", "status")["runs"]), "the invitation")  # type: ignore[misc]
            site.follow("accept", RUN=run["run_id"])
        self.sites[0].follow("check")
        self.hub.follow("start", RUN=run["run_id"])
        return str(run["run_id"])

    def rounds(self, run_id: str) -> list[Any]:
        return list(self.hub.ask("coordinator", "run", "show", run_id)["rounds"])

    def disturb(self, run_id: str) -> None:
        """Half-way: round 1 is over, round 2 has begun."""
        self.hub.follow("stuck", RUN=run_id)
        self.sites[0].follow("stuck")
        until(lambda: any(one["round_number"] == 2 for one in self.rounds(run_id)), "round 2")
        self.sites[1].compose("kill", "node")
        assert self.rounds(run_id)[-1]["status"] != "completed", "site-2 was killed too late to be missed"
        self.hub.compose("kill", "coordinator")
        assert "coordinator" not in self.hub.containers()
        say("killed the coordinator and site-2")
        self.hub.follow("revive")
        self.sites[1].follow("revive")

    def finish(self, run_id: str) -> None:
        def over() -> bool:
            return str(self.hub.ask("coordinator", "run", "show", run_id)["run"]["status"]) not in ("running", "paused")

        until(over, "the run's end", 600)
        found = self.hub.ask("coordinator", "run", "show", run_id)
        assert found["run"]["status"] == "completed", found["run"]
        for one in found["rounds"]:
            digests = {part["node_id"]: part["fused_digest"] for part in one["participations"]}
            assert len(digests) == len(SITES), digests
            assert set(digests.values()) == {one["fused_digest"]}, digests
            say(f"round {one['round_number']}: {len(digests)} nodes report {one['fused_digest'][:16]}…")

    def operate(self, run_id: str) -> None:
        """The procedures of a running alliance, then the loss of its machine."""
        before = self.rounds(run_id)
        self.hub.follow("invite", NODE="site-4")
        self.hub.follow("revoke", NODE="site-4")
        self.hub.follow("disk")
        self.hub.follow("rotate-admin")
        self.hub.follow("rotate-hub")
        self.sites[0].follow("bundle")
        self.sites[0].follow("rotate")
        self.restore(run_id, before)
        for machine in (self.hub, self.sites[0]):
            with (machine.folder / ".env").open("a") as file:
                file.write("HSL_VERSION=0.1.0-next\n")
            machine.follow("upgrade")

    def restore(self, run_id: str, before: list[Any]) -> None:
        """The hub's machine is lost. After the backup, site-3 got new keys and site-5 came and was revoked."""
        backup = str(self.engine.folder / "backup")
        self.hub.follow("invite", NODE="site-5")
        self.hub.follow("back up", BACKUP=backup)
        self.sites[2].follow("back up", BACKUP=backup)
        old_key = self.signing_key("site-3")
        self.sites[2].follow("rotate")
        until(lambda: self.signing_key("site-3") != old_key, "the new keys of site-3")
        self.hub.follow("revoke", NODE="site-5")
        until(lambda: knows_revoked(self.sites[0], "site-5"), "site-1 to hear of it")
        self.hub.shell("docker compose --profile hub down --volumes; rm -rf secrets .env coordinator-ca.pem")
        self.hub.follow("restore", BACKUP=backup)
        assert self.rounds(run_id) == before, "the restored ledger differs"
        self.hub.follow("recover")
        nodes = {node["node_id"]: node["status"] for node in self.hub.ask("coordinator", "nodes", "list")}
        assert (nodes["site-4"], nodes["site-5"]) == ("revoked", "revoked"), nodes
        code = code_in(self.hub.follow("new code", NODE="site-3"))
        self.sites[2].follow("enrol again", CODE=code)
        for site in (self.sites[0], self.sites[2]):
            until(
                lambda site=site: site.ask("node", "node", "status")["status"]["coordinator_reachable"],  # type: ignore[misc]
                f"{site.name} sees it again",
            )

    def signing_key(self, node_id: str) -> str:
        return str(self.hub.ask("coordinator", "nodes", "show", node_id)["signing_public_key"])


def knows_revoked(site: Machine, node_id: str) -> bool:
    """Whether its journal has it: what it tells a ledger that does not know."""
    query = f"SELECT count(*) FROM seen_revoked WHERE node_id = '{node_id}'"
    code = f'import sqlite3; print(sqlite3.connect("journal.sqlite").execute("{query}").fetchone()[0])'
    return site.compose("exec", "-T", "node", "python", "-c", code).strip() == "1"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("0.0.0.0", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    sys.exit(main())
