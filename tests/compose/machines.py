"""The machines of the alliance: each a folder with its own checkout and `.env`, where the runbook's blocks are run."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compose.engine import Engine, say
from tests.compose.images import ROOT
from tests.docs.runbook import step

PATIENCE_S = 240.0  # a busy machine; whatever hangs for longer hangs


@dataclass
class Machine:
    engine: Engine
    name: str
    role: str
    folder: Path
    words: dict[str, str] = field(default_factory=dict)  # the runbook's words in capitals

    @classmethod
    def make(cls, engine: Engine, name: str, role: str, settings: dict[str, str]) -> "Machine":
        """A fresh checkout with what the runbook asks to be filled in."""
        checkout = engine.folder / name
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        )
        for path in listed.stdout.decode().splitlines():
            if path.startswith(("libs/", "services/", "deploy/", "requirements/")) or "/" not in path:
                (checkout / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, checkout / path, follow_symlinks=False)
        machine = cls(engine, name, role, checkout / "deploy")
        lines = [f"{key}={value}\n" for key, value in {"COMPOSE_PROJECT_NAME": name, **settings}.items()]
        (machine.folder / ".env").write_text("".join(lines))
        return machine

    def follow(self, name: str, **words: str) -> str:
        """Run one block of the runbook as its reader would; what it printed. It may fail only with its own advice."""
        block = step(name, self.role)
        done = self.shell(block.script, **words)
        if done.returncode:
            raise AssertionError(
                f"docs/operations.md line {block.line}, `{name}` on {self.name}, failed:\n{done.stdout[-4000:]}\n"
                f"{block.if_it_fails}\n{self.state()}"
            )
        say(f"{self.name}: {name}")
        return done.stdout

    def shell(self, script: str, **words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.engine.environment({**self.words, **words}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def compose(self, *arguments: str) -> str:
        """stdout of `docker compose …`; raises RuntimeError with what it said."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self.folder,
            env=self.engine.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self.name}: docker compose {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def ask(self, service: str, *command: str) -> Any:
        """The JSON that `hsl … --json` prints in a container."""
        return json.loads(self.compose("exec", "-T", service, "hsl", *command, "--json"))

    def containers(self) -> dict[str, str]:
        """service -> container id, of all that run."""
        names = self.compose("ps", "--format", "{{.Service}} {{.ID}}").split()
        return dict(zip(names[::2], names[1::2], strict=True))

    def health(self, service: str) -> str:
        state: Any = self.engine.inspect(self.containers()[service])["State"]
        return str(state["Health"]["Status"])

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--no-log-prefix")

    def state(self) -> str:
        done = self.shell("docker compose ps --all; docker compose logs --no-color --tail 25 2>&1 | cut -c1-600")
        return done.stdout


def until(condition: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.5)  # noqa: TID251 - watching containers from outside


def code_in(answer: str) -> str:
    found = re.search(r"--code (\S+)", answer)
    assert found is not None, answer
    return found[1]
