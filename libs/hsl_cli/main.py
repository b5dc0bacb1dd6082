"""The one command `hsl`. Importing this file is cheap: what a command needs, it imports when it runs."""

from typing import Any

import typer
from typer.core import TyperGroup

from hsl_cli import data, demo_command, ledger, node, nodes, predict, runs, serve, study
from hsl_cli.errors import BAD_INPUT, EXIT_CODES, REFUSED, exit_code_of
from hsl_model.protocol.errors import HslError


class HslGroup(TyperGroup):
    """Errors of ours become their sentence and their exit code; a traceback is for our bugs only."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HslError as error:
            raise _failed(error.sentence(), exit_code_of(error)) from error
        except ModuleNotFoundError as error:
            extras = "pip install 'heterosync[coordinator,hub,node,study]'"
            raise _failed(
                f"This command needs {error.name}, which is not installed here: {extras}.", REFUSED
            ) from error
        except OSError as error:
            if error.filename is None:  # not about a file of this person, e.g. a closed pipe: typer knows that one
                raise
            raise _failed(f"{error.filename}: {error.strerror}.", BAD_INPUT) from error


def _failed(sentence: str, exit_code: int) -> typer.Exit:
    typer.echo(f"error: {sentence}", err=True)
    return typer.Exit(exit_code)


app = typer.Typer(
    name="hsl",
    cls=HslGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="HeteroSync: train one medical-imaging model across hospitals whose images never leave the building.",
    epilog=EXIT_CODES,
)
app.add_typer(serve.coordinator, name="coordinator")
app.add_typer(serve.hub, name="hub")
app.add_typer(node.app, name="node")
app.add_typer(runs.app, name="run")
app.add_typer(nodes.app, name="nodes")
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
serve.coordinator.command("backup")(ledger.backup)
serve.coordinator.command("recover")(ledger.recover)
app.command("demo")(demo_command.demo)
app.command("predict")(predict.predict)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
