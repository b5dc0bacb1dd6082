"""What goes wrong while a seed is played: processes, hub, clocks, files, and what people do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.nodes import service as nodes
from coordinator.runs import service as runs
from hsl_model.checkpoint import sha256_file
from node_agent.consents import Answer
from tests.simulator.setting_up import RUN_ID
from tests.simulator.site import Site

if TYPE_CHECKING:
    from tests.simulator.world import World

HOUR_S = 3600.0


class Chaos:
    """The faults that strike from outside; those of lines, transfers and trainings strike where these are made."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.faults, self.scheduler = world.faults, world.scheduler
        self.sites, self.coordinator, self.hub = world.sites, world.coordinator, world.hub

    def step(self) -> None:
        """Draw what goes wrong before the next step of the schedule."""
        faults, scheduler = self.faults, self.scheduler
        up = [site for site in self.sites.values() if site.is_up]
        if up and faults.strikes("agent crash"):
            site = faults.draw("agent crash").choice(up)
            site.die()
            self._later(faults.draw("agent crash").choice((0.0, 5.0, 60.0, 400.0)), site.start, site.node_id)
        if self.coordinator.is_up and self.coordinator.fuse.left is None and faults.strikes("coordinator crash"):
            self.coordinator.fuse.left = faults.draw("coordinator crash").randint(1, 6)
        if not self.coordinator.is_up and "coordinator" not in {task.owner for task in scheduler.tasks}:
            self._later(faults.draw("coordinator crash").choice((0.0, 5.0, 60.0)), self.world.revive, "coordinator")
        if not self.hub.is_down and faults.strikes("hub down"):
            self.hub.is_down = True
            self._later(faults.draw("hub down").uniform(10, 300), self._hub_up, "hub")
        self._clocks()
        self._disturb_files()
        self._people()

    def _later(self, delay_s: float, work: Any, owner: str) -> None:
        def wait_and_work() -> None:
            self.scheduler.sleep(delay_s)
            work()

        self.scheduler.start(
            f"starter of {owner}" if owner != "coordinator" else owner, f"start {owner}", wait_and_work
        )

    def _hub_up(self) -> None:
        self.hub.is_down = False

    def _clocks(self) -> None:
        if self.faults.strikes("clock jumps"):
            self.scheduler.now_s += self.faults.draw("clock jumps").choice((1.0, 30.0, 250.0))
        if self.faults.strikes("clock of a site is set"):
            draw = self.faults.draw("clock of a site is set")
            site = draw.choice(list(self.sites.values()))
            site.clock.ahead_s = draw.choice((-HOUR_S, -30.0, 0.0, 30.0, HOUR_S))
            self.scheduler.note(f"{site.node_id}: its clock is {site.clock.ahead_s:+.0f} s off")

    def _disturb_files(self) -> None:
        if self.faults.strikes("file vanished") and (files := self.hub.files()):
            path = self.faults.draw("file vanished").choice(files)
            at_home = self.sites[path.parent.name].folder / "store" / path.name
            if path.suffix != ".safetensors" or self._is_update(path) or _is_intact(at_home):
                path.unlink()
                self.scheduler.note(f"hub: {path.parent.name}/{path.name[:8]} vanishes")
        if self.faults.strikes("bit rot at a site"):
            site = self.faults.draw("bit rot at a site").choice(list(self.sites.values()))
            if files := sorted((site.folder / "store").glob("*.safetensors")):
                path = self.faults.draw("bit rot at a site").choice(files)
                if self._is_update(path) or _is_intact(self.hub.folder(site.node_id) / path.name):
                    self._rot(site, path)

    def _is_update(self, path: Path) -> bool:
        """Of the last copy of a model, hub and owner do not both lose theirs: with that gone only people can help. An
        update may be lost for good; the round goes on without it."""
        made = self.world.made.get(path.stem)
        return made is not None and made.node_id != ""

    def _rot(self, site: Site, path: Path) -> None:
        """The last byte of a tensor: still finite, still of its shape. Other names of the file keep theirs."""
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 1
        path.unlink()
        path.write_bytes(raw)
        self.world.oracle.spoilt.add(site.node_id)
        self.scheduler.note(f"{site.node_id}: {path.name[:8]} rots")

    def _people(self) -> None:
        faults, sites = self.faults, list(self.sites.values())
        if faults.strikes("run paused"):
            self.world.admin(runs.pause)
            self._later(faults.draw("run paused").uniform(5, 400), lambda: self.world.admin(runs.resume), "run")
        if faults.strikes("site paused"):
            site = faults.draw("site paused").choice(sites)
            site.set_paused(True)
            self._later(faults.draw("site paused").uniform(5, 300), lambda: site.set_paused(False), "pause")
        if faults.strikes("site withdraws"):
            site = faults.draw("site withdraws").choice(sites)
            site.asked_to_withdraw = True
            site.answer(RUN_ID, Answer.WITHDRAW)
            self.scheduler.note(f"{site.node_id}: withdraws")
        if faults.strikes("node revoked"):
            node_id = faults.draw("node revoked").choice(sites).node_id
            if self.world.with_kernel(lambda kernel: nodes.revoke(kernel, node_id)):
                self.world.revoked.add(node_id)
                self.scheduler.note(f"admin: revokes {node_id}")
        if faults.strikes("run stopped"):
            self.world.stopped = self.world.admin(runs.stop) or self.world.stopped


def _is_intact(path: Path) -> bool:
    return path.exists() and sha256_file(path) == path.stem
