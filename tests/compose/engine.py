"""A container engine of our own, from its start to its end: its data, socket and settings in one temporary folder.

dockerd is started by hand and ended by its pid. Whether this machine lets containers be made at all is found out by
trying; where the kernel forbids it, that is said and is no failure.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMPOSE_MODULE, COMPOSE_VERSION = "github.com/docker/compose/v2", "2.40.0"
DOCKER = "/usr/bin/docker"  # Debian's, of one version with its dockerd
START_S = 60.0


class EngineMissing(Exception):
    """Something that can be installed is not there."""


class KernelForbids(Exception):
    """No containers on this machine, whatever is installed."""


@dataclass
class Engine:
    folder: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Of every docker command. The old engine has no BuildKit."""
        ours = {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "DOCKER_CONFIG": str(self.folder / "config"),
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_MENU": "0",
            "COMPOSE_PROGRESS": "quiet",
            "PATH": f"/usr/bin:/usr/sbin:/bin:/sbin:{os.environ['PATH']}",
        }
        return {**os.environ, **ours, **(extra or {})}

    def docker(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            [DOCKER, *arguments], env=self.environment(), input=stdin, capture_output=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"docker {' '.join(arguments)}:\n{(done.stdout + done.stderr).decode()[-3000:]}")
        return done.stdout.decode()

    def inspect(self, name: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.docker("inspect", name))[0]
        return found


def compose_program() -> Path:
    """Docker Compose, built from its Go module into a cache outside the tree (once, about 90 s)."""
    cache = Path(os.environ.get("HSL_CACHE") or Path.home() / ".cache" / "heterosync")
    program = cache / f"docker-compose-{COMPOSE_VERSION}" / "docker-compose"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise EngineMissing(f"Docker Compose {COMPOSE_VERSION} is built with Go, which is not installed")
    say(f"building Docker Compose {COMPOSE_VERSION} (once; about 90 s)")
    go = {**os.environ, "GOWORK": "off", "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    listed = run(["go", "mod", "download", "-json", f"{COMPOSE_MODULE}@v{COMPOSE_VERSION}"], env=go, cwd="/")
    source = program.parent / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(json.loads(listed)["Dir"], source)
    run(["chmod", "-R", "u+w", str(source)])
    flags = f"-s -w -X {COMPOSE_MODULE}/internal.Version=v{COMPOSE_VERSION}"
    part = program.with_suffix(".part")
    run(["go", "build", "-trimpath", "-ldflags", flags, "-o", str(part), "./cmd"], env=go, cwd=source)
    part.rename(program)
    shutil.rmtree(source)
    return program


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """Raises `EngineMissing`, `KernelForbids`, or RuntimeError with the end of dockerd's log."""
    for program in ("/usr/sbin/dockerd", DOCKER):
        if not Path(program).exists():
            raise EngineMissing(f"{program} is not installed (Debian: apt-get install docker.io)")
    _may_make_containers()
    plugins = folder / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    shutil.copy(compose_program(), plugins / "docker-compose")
    engine = Engine(folder)
    arguments = ("--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid")
    command = ["/usr/sbin/dockerd", *map(str, arguments), "--host", f"unix://{folder}/docker.sock"]
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, env=engine.environment())
    try:
        _wait_until_it_answers(engine, daemon)
        yield engine
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _may_make_containers() -> None:
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        raise KernelForbids(f"this machine makes no namespaces for us: {tried.stderr.strip()}")


def _wait_until_it_answers(engine: Engine, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and daemon.poll() is None:
        if not subprocess.run(
            [DOCKER, "version"], env=engine.environment(), capture_output=True, check=False
        ).returncode:
            return
        time.sleep(0.3)  # noqa: TID251 - watching a process from outside
    raise RuntimeError(f"dockerd does not start:\n{(engine.folder / 'dockerd.log').read_text()[-3000:]}")


def run(command: Sequence[str | Path], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return str(done.stdout)


_began = time.monotonic()


def say(sentence: str) -> None:
    sys.stdout.write(f"[{time.monotonic() - _began:5.0f} s] {sentence}\n")
    sys.stdout.flush()
