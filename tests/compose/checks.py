"""What is looked into while the alliance stands: users, health, sizes, secrets, refusals."""

import json
import os
import signal
from collections.abc import Sequence
from typing import Any

from tests.compose.engine import Engine, say
from tests.compose.images import named
from tests.compose.machines import Machine, until

LARGEST_ADDITION = 150_000_000  # bytes of the coordinator's image over its base
OURS = ("coordinator", "hub", "edge", "node")


def clean_configuration(machine: Machine) -> dict[str, Any]:
    """`docker compose config` of every profile: no error, no warning. Returns what it read."""
    profiles = ("--profile", "hub", "--profile", "site", "--profile", "metrics")
    done = machine.shell(f"docker compose {' '.join(profiles)} config --quiet")
    assert done.returncode == 0, done.stdout
    assert done.stdout == "", f"docker compose config is not clean: {done.stdout}"
    gpu = machine.shell(f"docker compose -f compose.yaml -f compose.gpu.yaml {' '.join(profiles)} config --quiet")
    assert (gpu.returncode, gpu.stdout) == (0, ""), gpu.stdout
    say("docker compose config is clean, with and without a GPU")
    found: dict[str, Any] = json.loads(machine.compose(*profiles, "config", "--format", "json"))
    return found


def refuses_a_start_without_secrets(hub: Machine) -> None:
    """Missing and default secrets: a sentence with the setting and how to make one, never a start."""
    hub.shell("docker compose --profile hub build")
    expected = {"coordinator": "HSL_COORDINATOR_ADMIN_TOKEN", "hub": "HSL_HUB_ADMIN_TOKEN"}
    for service, setting in expected.items():
        done = hub.shell(f"docker compose run --rm --no-deps -T {service}")
        assert done.returncode, f"{service} starts without secrets"
        for word in (setting, "openssl rand -hex 24"):
            assert word in done.stdout, f"{service} does not say {word}:\n{done.stdout}"
        weak = "changeme-changeme-changeme"
        done = hub.shell(f"docker compose run --rm --no-deps -T -e {setting}={weak} {service}")
        assert done.returncode, f"{service} starts with a default secret"
        assert setting in done.stdout, done.stdout
        assert weak not in done.stdout, "a secret is shown"
    done = hub.shell("docker compose run --rm --no-deps -T postgres")
    assert done.returncode, "PostgreSQL starts without a password"
    hub.shell("docker compose --profile hub down --volumes; rm -rf secrets")
    say("no start without secrets, nor with a default one")


def refuses_a_start_without_a_code(site: Machine) -> None:
    site.shell("docker compose --profile site build")
    done = site.shell("docker compose run --rm -T node")
    assert done.returncode == 78, done.stdout
    assert "HSL_ENROLMENT_CODE" in done.stdout, done.stdout
    say("a site without a code says what to fill in")


def ordinary_users(machines: Sequence[Machine]) -> None:
    for machine in machines:
        for service, container in machine.containers().items():
            user = machine.engine.docker("exec", container, "id", "-u").strip()
            assert user != "0", f"{machine.name}: {service} runs as root"
            host: Any = machine.engine.inspect(container)["HostConfig"]
            assert host["ReadonlyRootfs"], f"{machine.name}: {service} can write to its root file system"
            assert 0 not in top(machine, container).values(), f"{machine.name}: {service} has a process of root"
    say("no process of root, read-only root file systems")


def image_size(engine: Engine) -> None:
    sizes = [int(str(engine.inspect(name)["Size"])) for name in (image("coordinator"), base_image())]
    added = sizes[0] - sizes[1]
    say(f"the coordinator's image adds {added / 1e6:.0f} MB to its base (at most {LARGEST_ADDITION / 1e6:.0f})")
    assert added <= LARGEST_ADDITION
    missing = engine.docker(
        "run", "--rm", image("coordinator"), "python", "-c", "import importlib.util as u; print(u.find_spec('torch'))"
    )
    assert missing.strip() == "None", "the coordinator's image has torch"


def image(service: str) -> str:
    return f"heterosync/{service}:0.1.0"


def base_image() -> str:
    return named("PYTHON", "coordinator/Dockerfile")


def no_secret_anywhere(hub: Machine, sites: Sequence[Machine]) -> None:
    """In no image, no log, no environment. A one-time code, used up, is in the environment of its own site alone."""
    secrets = {path.name: path.read_text() for path in sorted((hub.folder / "secrets").rglob("*")) if path.is_file()}
    assert len(secrets) == 5, sorted(secrets)
    for site in sites:
        secrets[f"the token of {site.name}"] = site.compose("exec", "-T", "node", "cat", "token").strip()
        secrets[f"the key of {site.name}"] = site.compose(
            "exec", "-T", "node", "sh", "-c", "cat keys/* | sed -n 2p"
        ).strip()
    assert min(map(len, secrets.values())) > 20, "a secret is too short to look for"
    places = {
        f"the history of {service}": hub.engine.docker("history", "--no-trunc", image(service)) for service in OURS
    }
    for machine in (hub, *sites):
        places[f"the logs of {machine.name}"] = machine.logs()
        for service, container in machine.containers().items():
            settings: Any = machine.engine.inspect(container)["Config"]
            places[f"the environment of {machine.name}'s {service}"] = json.dumps(settings)
    for where, text in places.items():
        for name, secret in secrets.items():
            assert secret not in text, f"{name} stands in {where}"
    for site in sites:
        others = [text for where, text in places.items() if site.name not in where]
        assert not any(site.words["CODE"] in text for text in others), f"the code of {site.name} is elsewhere"
    say(f"{len(secrets)} secrets in none of {len(places)} logs, histories and environments")


def top(machine: Machine, container: str) -> dict[int, int]:
    """Process ids on this machine with their users', without docker's own init."""
    lines = machine.engine.docker("top", container, "-eo", "pid,uid,comm").splitlines()[1:]
    found = [line.split(None, 2) for line in lines]
    return {int(pid): int(user) for pid, user, name in found if name.strip() not in ("docker-init", "tini")}


def sent(pid: int, signal_number: signal.Signals) -> bool:
    """Whether it was still there: the process of a health check ends by itself within a second."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def health_of_what_hangs(hub: Machine, site: Machine) -> None:
    """Every service is stopped in the middle of whatever it does (SIGSTOP), as a driver or a lock would."""
    watched = [(hub, service) for service in ("coordinator", "hub", "postgres", "edge")] + [(site, "node")]
    for machine, service in watched:
        until(lambda machine=machine, service=service: machine.health(service) == "healthy", f"{service} healthy")  # type: ignore[misc]
    there = [pid for machine, service in watched for pid in top(machine, machine.containers()[service])]
    held = [pid for pid in there if sent(pid, signal.SIGSTOP)]
    try:
        for machine, service in watched:
            until(lambda machine=machine, service=service: machine.health(service) == "unhealthy", f"{service} red")  # type: ignore[misc]
            say(f"{service} hangs, and its health check is red")
    finally:
        for pid in held:
            sent(pid, signal.SIGCONT)
    for machine, service in watched:
        until(lambda machine=machine, service=service: machine.health(service) == "healthy", f"{service} green again")  # type: ignore[misc]
    say("all are green again")
