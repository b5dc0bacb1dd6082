"""What a demo was asked for, checked before anything starts, and what it must remember to continue."""

import secrets
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from hsl_cli.demo.options import DemoOptions
from hsl_cli.device import check_device
from hsl_cli.errors import BadInputError
from hsl_model.protocol.config import Message
from hsl_model.protocol.methods import METHODS
from sftpgo_hub.program import find_program

Encoder = Literal["resnet18", "resnet_small"]
Device = Literal["cpu", "cuda"]
HubKind = Literal["embedded", "sftpgo"]
PHANTOM_SIZE = 32  # pixels: large enough to show a fracture line, small enough for two cores


class Choices(Message):
    """What decides the result. A folder that was begun with other choices is not continued."""

    sites: int
    rounds: int
    data: str | None
    sat: str | None
    method: str
    seed: int
    size: int | None
    encoder: Encoder
    epochs: int
    batch_size: int
    cases: int
    device: Device
    hub: HubKind = "embedded"

    def node_ids(self) -> tuple[str, ...]:
        """site-1, site-2, …; of equal length, so that the sorted order is the counted one."""
        digits = len(str(self.sites))
        return tuple(f"site-{number:0{digits}d}" for number in range(1, self.sites + 1))

    def differences(self, other: "Choices") -> list[str]:
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"--{key.replace('_', '-')} {theirs[key]}" for key in mine if mine[key] != theirs[key]]


class Ports(Message):
    coordinator: int
    hub: int
    hub_admin: int
    hub_rest: int = 0  # the last two are SFTPGo's alone
    hub_metrics: int = 0


class Memory(Message):
    """demo.json. Holds secrets of this machine's demo, so it is readable by its owner only."""

    version: Literal[1] = 1
    choices: Choices
    ports: Ports
    admin_token: str = Field(default_factory=lambda: secrets.token_urlsafe(32))
    hub_admin_token: str = Field(default_factory=lambda: secrets.token_urlsafe(32))
    run_id: str | None = None

    def used_ports(self) -> tuple[int, ...]:
        ports = self.ports
        more = (ports.hub_rest, ports.hub_metrics) if self.choices.hub == "sftpgo" else ()
        return (ports.hub, ports.hub_admin, ports.coordinator, *more)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.coordinator}"


def checked_choices(options: DemoOptions) -> Choices:
    """The choices, or `BadInputError` with the one option that is wrong; `ProgramMissingError` for a hub that is not
    there."""
    _within("sites", options.sites, 2, 32)
    _within("rounds", options.rounds, 1, 1000)
    _within("epochs", options.epochs, 1, 100)
    _within("batch-size", options.batch_size, 2, 4096)
    _within("cases", options.cases, 20, 1_000_000)
    _within("seed", options.seed, 0, 2**63 - 1)
    if options.size is not None:
        _within("size", options.size, 16, 1024)
    if options.port is not None:
        _within("port", options.port, 1024, 65535)
    _one_of("method", options.method, tuple(name for name, facts in METHODS.items() if not facts.shares_style))
    _one_of("encoder", options.encoder, get_args(Encoder))
    _one_of("hub", options.hub, get_args(HubKind))
    if options.hub == "sftpgo":
        find_program()
    check_device(options.device)
    return Choices.model_validate(
        {
            "data": _existing("data", options.data),
            "sat": _existing("sat", options.sat),
            **{key: getattr(options, key) for key in Choices.model_fields if key not in ("data", "sat")},
        }
    )


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BadInputError(reason=f"--{name} {value}: give a number from {least} to {most}.")


def _one_of(name: str, value: str, words: tuple[str, ...]) -> None:
    if value not in words:
        raise BadInputError(reason=f"--{name} {value}: choose one of {', '.join(words)}.")


def _existing(name: str, path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise BadInputError(reason=f"--{name} {path}: there is no such file.")
    return str(path.resolve())
