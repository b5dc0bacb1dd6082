"""The demo's folder: who may use it, what lies where, and the memory that lets the same command continue."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hsl_cli.demo.ports import choose_ports
from hsl_cli.demo.settings import Choices, Memory
from hsl_cli.errors import BadInputError
from hsl_model.durable import write_private
from hsl_model.locking import alone


@dataclass(frozen=True)
class Layout:
    root: Path

    @property
    def memory(self) -> Path:
        return self.root / "demo.json"

    @property
    def admin(self) -> Path:
        """url and token for the other `hsl` commands."""
        return self.root / "admin.json"

    @property
    def processes(self) -> Path:
        return self.root / "processes.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def hub(self) -> Path:
        return self.root / "hub"

    @property
    def coordinator(self) -> Path:
        return self.root / "coordinator"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def figure(self) -> Path:
        return self.root / "auc.png"

    def site(self, node_id: str) -> Path:
        return self.root / "sites" / node_id

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"


@contextmanager
def claimed(root: Path) -> Iterator[Layout]:
    """The folder, made if need be, for this process alone. The lock ends with the process, however it ends."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        _check_ours(root)
        (root / "logs").mkdir(exist_ok=True)
        (root / "demo.lock").touch(0o600)
    except OSError as error:
        raise BadInputError(
            reason=f"--workdir {root}: cannot write there ({error.strerror}); choose another folder."
        ) from error
    reason = f"--workdir {root}: another demo is running in this folder; wait for it or choose another."
    with alone(root / "demo.lock", lambda: BadInputError(reason=reason)):
        yield Layout(root.resolve())


def remembered(layout: Layout) -> Memory | None:
    """The memory of an earlier start of this demo, if there was one."""
    try:
        return Memory.model_validate_json(layout.memory.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise BadInputError(
            reason=f"{layout.memory} cannot be read back; begin anew with --fresh or choose another --workdir."
        ) from error


def recall(layout: Layout, choices: Choices, port: int | None) -> Memory:
    """The memory to go on with: the earlier one if it was begun with the same choices, or a new one, not yet kept."""
    memory = remembered(layout)
    if memory is None:
        return Memory(choices=choices, ports=choose_ports(port))
    if other := choices.differences(memory.choices):
        raise BadInputError(
            reason=f"{layout.root} holds a demo with {', '.join(other)}: give the same options to continue it, "
            "--fresh to begin anew, or another --workdir."
        )
    if port is not None and port != memory.ports.coordinator:
        raise BadInputError(reason=f"This demo's coordinator has port {memory.ports.coordinator}; leave --port out.")
    return memory


def remember(layout: Layout, memory: Memory) -> None:
    write_private(layout.memory, memory.model_dump_json(indent=2).encode())
    address = json.dumps({"url": memory.url, "token": memory.admin_token}, indent=2)
    write_private(layout.admin, address.encode())


def forget(layout: Layout) -> None:
    """Remove what a demo wrote, and nothing else: a mistyped --workdir must not cost a person's files."""
    for path in (layout.data, layout.hub, layout.coordinator, layout.root / "sites", layout.root / "logs"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (layout.memory, layout.admin, layout.result, layout.figure):
        path.unlink(missing_ok=True)
    (layout.root / "logs").mkdir(exist_ok=True)


def _check_ours(root: Path) -> None:
    """A demo's folder has its lock from the first moment on; any other folder must be empty."""
    if not (root / "demo.lock").exists() and (strange := sorted(path.name for path in root.iterdir())):
        raise BadInputError(
            reason=f"--workdir {root} holds other files ({strange[0]}); choose an empty or a new folder."
        )
