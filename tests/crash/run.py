"""One run of the fleet with its strikes, from drafted to tidy; whoever died is started again, and the end is judged.

copy the template ─> start all ─> the members accept ─> start ─> completed ─> tidy ─> all killed ─> judged offline
                          └── a machine that died by SIGKILL is started again, after a power cut from its disk
"""

import json
import os
import select
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from hsl_model.checkpoint import sha256_file
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.states import NodePhase
from node_agent.egress import verify
from node_agent.journal import Journal
from node_agent.model_card import read_model_card
from tests.crash import power
from tests.crash.fleet import NUM_ROUNDS, ROLES, SITES, Fleet, Machine, end
from tests.crash.points import Harm, Point, Strike, Watch, recorded, struck
from tests.ledger import contradictions

PATIENCE_S = 120.0  # since the last crash, on the slowest machine; a run that nobody disturbs takes a second or two
LOOK_MS = 100
HALF_WRITTEN = (".part", ".tmp", ".new")
CUTS = (Harm.POWER, Harm.NAMES)


class Broken(Exception):
    """What the product did wrong, in one sentence."""


@dataclass
class Outcome:
    strikes: tuple[Strike, ...]
    digests: tuple[str, ...] = ()  # of every round
    error: str | None = None
    struck: tuple[Strike, ...] = ()
    wall_s: float = 0.0
    points: list[Point] = field(default_factory=list)

    @property
    def num_struck(self) -> int:
        return len(self.struck)


class Run:
    def __init__(self, fleet: Fleet, name: str, strikes: tuple[Strike, ...] = (), *, recording: bool = False) -> None:
        self.fleet = fleet
        self.folder = fleet.folder_of(name)
        self.strikes = strikes
        self.recording = recording
        self.machines = {role: Machine(role, self.folder / role, self._shadow_of(role)) for role in ROLES}

    def _shadow_of(self, role: str) -> Path | None:
        cuts = [strike for strike in self.strikes if strike.harm in CUTS and strike.point.role == role]
        return self.folder / f"{role}.shadow" if cuts else None

    def outcome(self) -> Outcome:
        clock = SystemClock()
        began_s = clock.monotonic()
        outcome = Outcome(self.strikes)
        shutil.copytree(self.fleet.template, self.folder)
        try:
            self._to_the_end(clock)
            outcome.digests = self._judged()
        except Broken as error:
            outcome.error = str(error)
        finally:
            for machine in self.machines.values():
                end(machine)
        outcome.struck = tuple(one for number, one in enumerate(self.strikes) if struck(self.folder, number))
        if self.recording:
            outcome.points = recorded(self.folder)
        outcome.wall_s = clock.monotonic() - began_s
        shutil.rmtree(self.folder)
        return outcome

    # --- the run -----------------------------------------------------------------------------------------------------

    def _to_the_end(self, clock: SystemClock) -> None:
        for machine in self.machines.values():
            self._start(machine)
        began_s, num_deaths = clock.monotonic(), 0
        done = self._stages()
        while next(done, True) is not True:
            self._wait_and_revive()
            if (now := sum(machine.num_deaths for machine in self.machines.values())) > num_deaths:
                began_s, num_deaths = clock.monotonic(), now
            if clock.monotonic() > began_s + PATIENCE_S:
                raise Broken(f"did not end within {PATIENCE_S:.0f} s: {self._situation()}")
        for machine in self.machines.values():
            end(machine)

    def _stages(self) -> Iterator[None]:
        """Each `yield` is another look a moment later."""
        run = f"/runs/{self.fleet.run_id}"
        while True:
            view = self.fleet.ask("GET", run)
            if view is not None and view["status"] == "draft":
                if all(member["status"] == "accepted" for member in view["members"]):
                    self.fleet.ask("POST", f"{run}/start")
            elif view is not None and view["status"] == "completed":
                break
            elif view is not None and view["status"] != "running":
                raise Broken(f"the run is {view['status']}: {view.get('reason')}")
            yield
        while self._untidy():
            yield

    def _start(self, machine: Machine) -> None:
        self.fleet.fork(machine, Watch(machine.role, self.folder, self.strikes, self.recording))

    def _wait_and_revive(self) -> None:
        poll = select.poll()
        descriptors = [os.pidfd_open(machine.pid) for machine in self.machines.values() if machine.pid]
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.poll(LOOK_MS)
        for descriptor in descriptors:
            os.close(descriptor)
        for machine in self.machines.values():
            pid, status = os.waitpid(machine.pid or 0, os.WNOHANG)
            if pid:
                self._revive(machine, os.waitstatus_to_exitcode(status))

    def _revive(self, machine: Machine, code: int) -> None:
        machine.pid = None
        if code != -signal.SIGKILL:
            raise Broken(f"{machine.role} ended with {code}: {self._tail(machine.role)}")
        machine.num_deaths += 1
        self._restore_after_a_cut(machine)
        self._start(machine)

    def _restore_after_a_cut(self, machine: Machine) -> None:
        """If it was a power cut that it died of just now."""
        for number, strike in enumerate(self.strikes):
            marker = self.folder / f"struck-{number}"
            if strike.harm in CUTS and strike.point.role == machine.role and marker.exists() and not marker.read_text():
                marker.write_text("restored")
                power.restore(machine.folder, machine.shadow, names_survive=strike.harm is Harm.NAMES)

    # --- judging -----------------------------------------------------------------------------------------------------

    def _untidy(self) -> list[str]:
        """Half-written files, on any machine, and work folders of a run that is over."""
        work = [self.machines[site].folder / "runs" / self.fleet.run_id for site in SITES]
        walks = (os.walk(self.machines[role].folder) for role in ROLES)  # unlike rglob, bears folders that go meanwhile
        paths = (Path(folder) / name for walk in walks for folder, _, names in walk for name in names)
        half = [path for path in paths if path.suffix in HALF_WRITTEN]
        return [str(path.relative_to(self.folder)) for path in (*half, *work) if path.exists()]

    def _judged(self) -> tuple[str, ...]:
        """The fused digest of every round, after everything else has been looked at."""
        with sqlite3.connect(self.folder / "coordinator" / "coordinator.db") as database:
            if wrong := contradictions(database):
                raise Broken(f"the ledger: {'; '.join(wrong)}")
            rounds = database.execute(
                "SELECT round_number, status, fused_digest, plan FROM rounds ORDER BY round_number"
            ).fetchall()
            reports = database.execute(
                "SELECT round_number, node_id, status, json_extract(report, '$.fused_digest') FROM participations"
            ).fetchall()
        database.close()
        if [number for number, *_ in rounds] != list(range(NUM_ROUNDS + 1)):
            raise Broken(f"rounds {rounds}")
        digests = {number: digest for number, _, digest, _ in rounds}
        for number, site, status, digest in reports:
            if status != "fused" or digest != digests[number]:
                raise Broken(f"{site} is {status} in round {number} with {digest}, not {digests[number]}")
        for number, _, _, plan in rounds[1:]:
            if [entry["node_id"] for entry in json.loads(plan)["entries"]] != list(SITES):
                raise Broken(f"the plan of round {number} is not of all three: {plan}")
        for site in SITES:
            self._judge_site(self.machines[site].folder)
        return tuple(digests[number] for number in sorted(digests))

    def _judge_site(self, folder: Path) -> None:
        journal = Journal(folder / "journal.sqlite", SystemClock())
        try:
            verify(journal)
            row = journal.current()
            with journal.transaction() as connection:
                kept = {name for (name,) in map(tuple, connection.execute("SELECT sha256 FROM kept_files"))}
        finally:
            journal.close()
        if row.phase is NodePhase.FAILED:
            raise Broken(f"{folder.name} is FAILED: {row.failure}")
        files = {path.stem for path in (folder / "store").glob("*.safetensors")}
        if files != kept:
            raise Broken(f"{folder.name} keeps files {sorted(files ^ kept)} that do not fit its journal")
        self._judge_models(folder / "models" / self.fleet.run_id)

    def _judge_models(self, folder: Path) -> None:
        """What `hsl predict` reads: the last round's card, and with it exactly the files that the cards name."""
        try:
            cards = [read_model_card(path) for path in folder.glob("*.json")]
        except ValidationError as error:
            raise Broken(f"{folder}: a card is no card: {error}") from error
        newest = [card for card in cards if card.round_number == NUM_ROUNDS]
        named = {name for card in cards for name in card.files}
        there = {path.name for path in folder.glob("*.safetensors")}
        if not newest or named != there:
            raise Broken(
                f"{folder}: cards of rounds {[card.round_number for card in cards]}, files {sorted(named ^ there)}"
            )
        for name in there:
            if sha256_file(folder / name) != Path(name).stem:
                raise Broken(f"{folder}: the bytes of {name} are not those of its name")

    def _situation(self) -> str:
        view = self.fleet.ask("GET", f"/runs/{self.fleet.run_id}/rounds?limit=100")
        last = view["items"][0] if view and view["items"] else None
        tails = "\n".join(f"{role}: {self._tail(role)}" for role in ROLES)
        return f"{self._untidy()} {json.dumps(last)[:1500]}\n{tails}"

    def _tail(self, role: str, num_lines: int = 6) -> str:
        return "\n".join((self.folder / f"{role}.log").read_text(errors="replace").splitlines()[-num_lines:])
