"""Reading a run's configuration from TOML or JSON, and saying which keys are wrong before anything is sent."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hsl_cli.errors import BadInputError
from hsl_model.protocol.config import RunConfig, TaskConfig
from hsl_model.protocol.strength import MAKE_ONE

STDIN = Path("-")
MAX_CONFIG_BYTES = 1 << 20  # naming a data file by mistake must not read gigabytes


def load_config(path: Path) -> RunConfig:
    """The run configuration in `path`. `BadInputError` names the file, or the path of every wrong key."""
    try:
        return RunConfig.model_validate(parse_file(path))
    except ValidationError as error:
        reason = f"{path} is not a run configuration; correct these keys:\n{wrong_keys(error)}"
        raise BadInputError(reason=reason) from error


def wrong_keys(error: ValidationError) -> str:
    """A line for every wrong key: its path, and what is wrong with it."""
    return "\n".join(f"  {key_path(found['loc'])}: {_message(found)}" for found in error.errors())


def wrong_settings(error: ValidationError, prefix: str) -> str:
    """The same for settings from the environment; never with their values, for some are secrets."""
    lines = []
    for found in error.errors(include_input=False):
        name = f"{prefix}{key_path(found['loc'])}".upper() if found["loc"] else prefix.rstrip("_")
        lines.append(f"  {name}: {_message(found)}")
    return "\n".join(lines)


def key_path(location: tuple[int | str, ...]) -> str:
    """("quorum", "required_nodes", 0) as quorum.required_nodes[0]."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "(the whole file)"


def _message(found: Any) -> str:
    if found["type"] == "extra_forbidden":
        return "unknown key; remove it or correct its spelling"
    if found["type"] == "missing":
        secret = str(found["loc"][-1]).endswith("_token")
        return f"is required; {MAKE_ONE}" if secret else "is required"
    message = str(found["msg"]).removeprefix("Value error, ")
    given = found.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float) else ""
    return f"{message}{shown}"


def parse_file(path: Path) -> object:
    """What a .toml or .json file holds; `BadInputError` says why it cannot be read."""
    if path == STDIN:
        return _read(sys.stdin.buffer.read(MAX_CONFIG_BYTES), "the standard input", "TOML")
    if path.suffix not in (".toml", ".json"):
        raise BadInputError(reason=f"{path}: a configuration is a .toml or .json file.")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise BadInputError(reason=f"{path} is larger than a configuration can be; is it the right file?")
        raw = path.read_bytes()
    except OSError as error:
        raise BadInputError(reason=f"Cannot read {path}: {error.strerror}.") from error
    return _read(raw, str(path), "TOML" if path.suffix == ".toml" else "JSON")


def _read(raw: bytes, name: str, kind: str) -> object:
    try:
        text = raw.decode()
        return tomllib.loads(text) if kind == "TOML" else json.loads(text)
    except RecursionError as error:
        raise BadInputError(reason=f"{name} is nested too deeply to be a configuration.") from error
    except ValueError as error:  # also tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError
        raise BadInputError(reason=f"{name} is not valid {kind}: {error}.") from error


def load_task(path: Path) -> TaskConfig:
    """The task in `path`: a run configuration's `task`, or a file that holds nothing else."""
    parsed = parse_file(path)
    given = parsed.get("task", parsed) if isinstance(parsed, dict) else parsed
    try:
        return TaskConfig.model_validate(given)
    except ValidationError as error:
        raise BadInputError(reason=f"{path} does not hold a task; correct these keys:\n{wrong_keys(error)}") from error
