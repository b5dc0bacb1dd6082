"""`hsl nodes …`: what an alliance coordinator does with nodes."""

from typing import Annotated

import typer

from hsl_cli.options import Connection, JsonFlag, grouped

app = typer.Typer(no_args_is_help=True, help="Add, list, show, revoke and release nodes.")

NodeId = Annotated[str, typer.Argument(help="The node's id, e.g. hospital-a.", show_default=False)]


@app.command()
@grouped
def add(
    connection: Connection,
    node_id: NodeId,
    name: Annotated[str | None, typer.Option(help="Name for people; default: the id.")] = None,
    new_code: Annotated[bool, typer.Option("--new-code", help="A fresh code for a node that exists.")] = False,
    public_url: Annotated[
        str | None, typer.Option(envvar="HSL_PUBLIC_URL", help="Where sites reach the coordinator; default: as you do.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Add a node and print its one-time enrolment code. Only this answer shows the code."""
    from hsl_cli.output import print_json, say, seconds
    from hsl_cli.paths import NODES, node_path
    from hsl_model.protocol.views import NodeCreated

    with connection.open() as coordinator:
        if new_code:
            made = coordinator.post(f"{node_path(node_id)}/code", NodeCreated)
        else:
            made = coordinator.post(NODES, NodeCreated, {"node_id": node_id, "display_name": name or node_id})
        url = public_url or coordinator.url
    if json:
        return print_json(made)
    say(f"{made.node_id} may enrol once within {seconds(made.expires_in_s)}. At the site:")
    return say(f"  hsl node enrol --coordinator {url} --code {made.code}")


@app.command("list")
@grouped
def list_nodes(connection: Connection, json: JsonFlag = False) -> None:
    """List the alliance's nodes and what each is doing."""
    from hsl_cli.output import print_json, show
    from hsl_cli.paths import NODES
    from hsl_cli.run_tables import nodes_table
    from hsl_model.protocol.views import NodeView

    with connection.open() as coordinator:
        nodes = list(coordinator.all(NODES, NodeView))
    return print_json(nodes) if json else show(nodes_table(nodes))


@app.command("show")
@grouped
def show_node(connection: Connection, node_id: NodeId, json: JsonFlag = False) -> None:
    """Show one node."""
    from hsl_cli.output import print_json, show
    from hsl_cli.paths import node_path
    from hsl_cli.run_tables import node_facts
    from hsl_model.protocol.views import NodeView

    with connection.open() as coordinator:
        node = coordinator.get(node_path(node_id), NodeView)
    return print_json(node) if json else show(node_facts(node))


def _move(connection: Connection, node_id: str, verb: str, json: bool) -> None:
    from hsl_cli.output import print_json, say
    from hsl_cli.paths import node_path
    from hsl_model.protocol.views import NodeView

    with connection.open() as coordinator:
        node = coordinator.post(f"{node_path(node_id)}/{verb}", NodeView)
    if json:
        print_json(node)
    else:
        say(f"{node.node_id} is {node.status}.")


@app.command()
@grouped
def revoke(
    connection: Connection,
    node_id: NodeId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: JsonFlag = False,
) -> None:
    """Revoke a node: its token and hub access end at once, and its open updates leave the plan."""
    import sys

    from hsl_cli.errors import BadInputError

    if not yes:
        if not sys.stdin.isatty():
            raise BadInputError(reason=f"Revoking ends {node_id}'s access at once: say so with --yes.")
        typer.confirm(f"Revoke {node_id}? Its access ends at once.", abort=True)
    _move(connection, node_id, "revoke", json)


@app.command()
@grouped
def release(connection: Connection, node_id: NodeId, json: JsonFlag = False) -> None:
    """Let a new agent take a node's identity after a second live one was refused."""
    _move(connection, node_id, "release", json)
