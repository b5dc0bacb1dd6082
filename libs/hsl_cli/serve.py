"""`hsl coordinator serve` and `hsl hub serve`: the services in the foreground, configured by options or environment."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class HubKind(StrEnum):
    EMBEDDED = "embedded"
    SFTPGO = "sftpgo"


coordinator = typer.Typer(no_args_is_help=True, help="The alliance's coordinator.")
HUB_HELP = "The SFTP hub: the embedded one for a laptop, a demo or a small alliance, or SFTPGo."
hub = typer.Typer(no_args_is_help=True, help=HUB_HELP)


@coordinator.callback()
def _coordinator() -> None:
    """The alliance's coordinator."""


@hub.callback()
def _hub() -> None:
    """The SFTP hub: the embedded one for a laptop, a demo or a small alliance, or SFTPGo."""


@coordinator.command("serve")
def serve_coordinator(
    workdir: Annotated[Path | None, typer.Option(help="Where it keeps its database.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; TLS belongs in front of it.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    database_url: Annotated[str | None, typer.Option(help="SQLite or PostgreSQL, e.g. postgresql+psycopg://….")] = None,
    hub_kind: Annotated[str | None, typer.Option(help="embedded or sftpgo.")] = None,
    hub_admin_url: Annotated[str | None, typer.Option(help="Where the hub is administered.")] = None,
) -> None:
    """Serve the coordinator until it is told to end.

    Every setting can also be an environment variable, HSL_COORDINATOR_…; the secrets must be:
    HSL_COORDINATOR_ADMIN_TOKEN and HSL_COORDINATOR_HUB_ADMIN_TOKEN.
    """
    given = {
        "WORKDIR": workdir,
        "HOST": host,
        "PORT": port,
        "DATABASE_URL": database_url,
        "HUB_KIND": hub_kind,
        "HUB_ADMIN_URL": hub_admin_url,
    }
    run_service("coordinator", "HSL_COORDINATOR_", given)


@hub.command("serve")
def serve_hub(
    kind: Annotated[HubKind, typer.Option(help="SFTPGo runs as a child; `make sftpgo` builds it.")] = HubKind.EMBEDDED,
    root: Annotated[Path | None, typer.Option(help="The folder it serves.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="SFTP port.")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of the admin API, on loopback only.")] = None,
) -> None:
    """Serve a hub until it is told to end.

    Every setting can also be an environment variable, HSL_HUB_…; the secret must be: HSL_HUB_ADMIN_TOKEN.
    """
    run_service(f"{kind}_hub", "HSL_HUB_", {"ROOT": root, "HOST": host, "PORT": port, "ADMIN_PORT": admin_port})


def run_service(module: str, prefix: str, given: Mapping[str, object]) -> None:
    """Run a service as `python -m module` would, in this process, with `given` over its environment."""
    import os
    import runpy
    import sys

    from pydantic import ValidationError

    from hsl_cli.config_file import wrong_settings
    from hsl_cli.errors import BadInputError

    os.environ.update({f"{prefix}{key}": str(value) for key, value in given.items() if value is not None})
    sys.argv = [module]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except ValidationError as error:
        reason = f"{module} cannot start with these settings:\n{wrong_settings(error, prefix)}"
        raise BadInputError(reason=reason) from error
