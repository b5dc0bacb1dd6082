"""Options that several commands share, and how a dataclass becomes options.

A command that takes a parameter whose type is a dataclass gets one option for each of its fields. So `Connection`
is written once and every admin command says `connection: Connection`.
"""

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from hsl_cli.errors import BadInputError

if TYPE_CHECKING:
    from hsl_cli.service import Service
    from node_agent.settings import NodeSettings

DEFAULT_WORKDIR = Path("demo-run")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of a table.")]


@dataclasses.dataclass(frozen=True)
class Connection:
    """How an admin command finds the coordinator: options, environment, or the file a demo wrote."""

    url: Annotated[str | None, typer.Option(envvar="HSL_URL", help="Address of the coordinator.")] = None
    token: Annotated[str | None, typer.Option(envvar="HSL_ADMIN_TOKEN", help="The admin's token.")] = None
    workdir: Annotated[
        Path, typer.Option(envvar="HSL_WORKDIR", help="Without --url and --token: read admin.json in this folder.")
    ] = DEFAULT_WORKDIR
    ca_file: Annotated[
        Path | None, typer.Option(envvar="HSL_CA_FILE", help="PEM of the alliance's authority. Default: public ones.")
    ] = None

    def open(self) -> "Service":
        from hsl_cli.service import Service

        url, token = self.url, self.token or read_secret("hsl_coordinator_admin_token")
        if url is None or token is None:
            known = read_address(self.workdir / "admin.json")
            url = url or known.get("url")
            token = token or known.get("token")
        if not url or not token:
            raise BadInputError(
                reason="Which coordinator? Give --url and --token, set HSL_URL and HSL_ADMIN_TOKEN, "
                f"or name the folder of a demo with --workdir (there is no admin.json in {self.workdir})."
            )
        return Service(url, token, name="the coordinator", ca_file=self.ca_file)


@dataclasses.dataclass(frozen=True)
class Site:
    """How a site command finds the agent of this machine."""

    workdir: Annotated[
        Path, typer.Option(envvar="HSL_NODE_WORKDIR", help="The agent's folder, which holds its keys and journal.")
    ] = Path("node")

    def settings(self) -> "NodeSettings":
        """The agent's settings in this folder; what the environment gets wrong is named by its variable."""
        from pydantic import ValidationError

        from hsl_cli.config_file import wrong_settings
        from node_agent.settings import NodeSettings

        try:
            return NodeSettings(workdir=self.workdir)
        except ValidationError as error:
            raise BadInputError(reason=f"Correct the environment:\n{wrong_settings(error, 'HSL_NODE_')}") from error

    def open(self) -> "Service":
        from hsl_cli.errors import UnreachableError
        from hsl_cli.service import Service

        known = read_address(self.workdir / "site.json")
        if "url" not in known or "token" not in known:
            raise UnreachableError(
                reason=f"No agent runs in {self.workdir}: start it with `hsl node serve --workdir {self.workdir}`."
            )
        return Service(known["url"], known["token"], name="the agent of this site")


def read_secret(name: str) -> str | None:
    """A secret of the deployment: in the coordinator's container its admin's commands need no token to be typed."""
    folder = os.environ.get("HSL_SECRETS_FOLDER")
    if not folder or not (path := Path(folder) / name).is_file():
        return None
    return path.read_text(encoding="utf-8").strip()


def read_address(path: Path) -> dict[str, str]:
    """The strings of a small JSON file (`url`, `token`), or nothing when there is no such file."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadInputError(reason=f"Cannot read {path}: give --url and --token instead.") from error
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Spread each dataclass parameter of `function` into the options its fields declare, and gather them again."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            groups[parameter.name] = kind
            parameters += _options_of(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def call(**given: Any) -> None:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in dataclasses.fields(kind)})
        function(**given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _options_of(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]
