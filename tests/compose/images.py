"""The images that compose.yaml and the Dockerfiles name, made under the same names and tags: there is no registry here.

python   Debian's Python 3.11 on a debootstrap base        postgres, caddy   Debian's packages
sftpgo   the Go build of `make sftpgo`                     node's dependencies: the local environment's packages

They obey the same variables and keep the same folders, users and programs as the real ones, as far as we use them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.compose.engine import DOCKER, Engine, EngineMissing, run, say

ROOT = Path(__file__).parents[2]
STANDINS = Path(__file__).with_name("standins")
RELEASE = "bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PYTHON_PACKAGES = "ca-certificates,python3,python3-venv"
SERVICE_PACKAGES = f"{PYTHON_PACKAGES},postgresql-15,caddy,wget"
DEPENDENCIES = "heterosync-test/node-dependencies"
# What a training on a CPU never loads: 2 GB of kernels, compilers and headers, and the tools of developers.
NOT_NEEDED = (
    "site-packages/triton",
    "site-packages/nvidia/cudnn/lib/libcudnn_*",
    "site-packages/nvidia/cu13/lib/libcusolver*",
    "site-packages/nvidia/*/include",
    "site-packages/torch/include",
    "site-packages/mypy*",
    "site-packages/matplotlib",
    "site-packages/fontTools",
    "site-packages/pip",
    "site-packages/*heterosync*",
    "*.a",
    "*.bc",
)


def named(variable: str, dockerfile: str) -> str:
    """The image that a Dockerfile takes by default: `ARG PYTHON=…`."""
    found = re.search(rf"^ARG {variable}=(\S+)", (ROOT / "deploy" / dockerfile).read_text(), re.MULTILINE)
    assert found is not None, f"{dockerfile} has no ARG {variable}"
    return found[1]


def make_standins(engine: Engine, postgres: str) -> None:
    """All of them. `postgres`: the image compose.yaml names."""
    python = named("PYTHON", "coordinator/Dockerfile")
    base = bootstrapped("python", PYTHON_PACKAGES)
    import_tree(engine, f"{python}", [(base, ".")], ())
    build(engine, python, f"FROM {python}\nRUN ln -s /usr/bin/python3 /usr/local/bin/python\n")
    say(f"{python}: Debian's Python")
    make_dependencies(engine, base)
    program = run([ROOT / "deploy" / "sftpgo" / "build.sh"]).strip()
    context = engine.folder / "sftpgo"
    context.mkdir()
    shutil.copy(program, context / "sftpgo")
    sftpgo = named("SFTPGO", "coordinator/Dockerfile")
    build(engine, sftpgo, "FROM scratch\nCOPY sftpgo /usr/local/bin/sftpgo\n", context)
    say(f"{sftpgo}: the Go build")
    import_tree(engine, "heterosync-test/services", [(bootstrapped("services", SERVICE_PACKAGES), ".")], ())
    build(engine, postgres, (STANDINS / "postgres.Dockerfile").read_text(), STANDINS)
    build(engine, named("CADDY", "caddy/Dockerfile"), "FROM heterosync-test/services\n")
    say(f"{postgres} and {named('CADDY', 'caddy/Dockerfile')}: Debian's packages")


def make_dependencies(engine: Engine, base: Path) -> None:
    """What `requirements/node.txt` installs, taken from the environment of this machine instead of the network."""
    if sys.version_info[:2] != (3, 11):
        raise EngineMissing("the test's images have Debian's Python 3.11, so make the environment with it too")
    packages = Path(sys.prefix) / "lib" / "python3.11"
    import_tree(engine, DEPENDENCIES, [(base, "."), (packages, "site-packages")], NOT_NEEDED)
    lines = "RUN ln -s /usr/bin/python3 /usr/local/bin/python && python -m venv --without-pip /opt/heterosync\n"
    build(engine, DEPENDENCIES, f"FROM {DEPENDENCIES}\n{lines}")
    say(f"{DEPENDENCIES}: the packages of {sys.prefix}")


def bootstrapped(name: str, packages: str) -> Path:
    """A Debian tree with `packages`, made once and kept outside the working tree."""
    cache = Path(os.environ.get("HSL_CACHE") or Path.home() / ".cache" / "heterosync")
    tree = cache / f"{RELEASE}-{name}"
    if (tree / "made").exists():
        return tree
    if shutil.which("debootstrap") is None:
        raise EngineMissing("debootstrap is not installed (Debian: apt-get install debootstrap)")
    say(f"debootstrap: {packages} (once)")
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    run(["debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, str(tree), mirror()])
    if CERTIFICATES.exists():  # a machine behind a proxy of its own has that one's authority in it
        shutil.copy(CERTIFICATES, tree / CERTIFICATES.relative_to("/"))
    (tree / "made").touch()
    return tree


def mirror() -> str:
    """Where this machine takes Debian's packages from, or `HSL_DEBIAN_MIRROR`."""
    if named_by_hand := os.environ.get("HSL_DEBIAN_MIRROR"):
        return named_by_hand
    if shutil.which("apt-get") is not None:
        listed = run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)", "Created-By: Packages"])
        for line in listed.splitlines():
            site, _, release = line.partition(" ")
            if release == RELEASE:
                return site
    raise EngineMissing(f"no mirror of Debian's {RELEASE} is known here: set HSL_DEBIAN_MIRROR")


def import_tree(engine: Engine, tag: str, parts: Sequence[tuple[Path, str]], excluded: Sequence[str]) -> None:
    """One layer from folders, streamed: nothing is written twice. `site-packages` goes to the node's environment."""
    where = "opt/heterosync/lib/python3.11/site-packages"
    command = [
        "tar",
        "--create",
        f"--transform=s,^site-packages,{where},",
        "--exclude=./var/cache/apt",
        "--exclude=./made",
    ]
    command += ["--exclude=./var/lib/apt/lists", *(f"--exclude={pattern}" for pattern in excluded)]
    for folder, inside in parts:
        command += ["-C", str(folder), inside]
    certificates = f"ENV SSL_CERT_FILE={CERTIFICATES}"
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            [DOCKER, "import", "--change", certificates, "-", tag],
            stdin=tar.stdout,
            env=engine.environment(),
            capture_output=True,
            check=False,
        )
    if done.returncode or tar.returncode > 1:  # 1: a file changed meanwhile, e.g. a cache of Python's
        raise RuntimeError(f"docker import {tag}: {done.stderr.decode()}")


def build(engine: Engine, tag: str, dockerfile: str, context: Path | None = None) -> None:
    if context is None:
        engine.docker("build", "--quiet", "--tag", tag, "-", stdin=dockerfile.encode())
        return
    path = engine.folder / "Dockerfile"
    path.write_text(dockerfile)
    engine.docker("build", "--quiet", "--tag", tag, "--file", str(path), str(context))
