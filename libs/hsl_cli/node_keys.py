"""`hsl node rotate` and `hsl node trust`: this site's own keys, and those of others that changed."""

from typing import Annotated, Literal

import typer

from hsl_cli.options import JsonFlag, Site, grouped


@grouped
def rotate(
    site: Site,
    only: Annotated[
        Literal["ssh", "signing"] | None, typer.Option(help="Default: both keys. The token is new in any case.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """New keys and a new token, made here. Possible at any time, also in a round; the running agent does it."""
    from hsl_cli.output import print_json, say
    from node_agent.site_api import RotateWish
    from node_agent.status import SiteStatus

    wish = RotateWish(ssh=only != "signing", signing=only != "ssh")
    with site.open() as agent:
        now = agent.post("/rotate", SiteStatus, wish, wait_s=30)
    if json:
        return print_json(now)
    return say(now.rotation or "The new keys and the new token are in use; the old ones are of no more use.")


@grouped
def trust(
    site: Site,
    name: Annotated[str, typer.Argument(help="The node, or `hub`, as `hsl node status` shows.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; the fingerprint was compared.")] = False,
    json: JsonFlag = False,
) -> None:
    """Say yes to a changed key, of a node or of the hub, that nobody vouched for. Until then it is not believed."""
    import sys

    from hsl_cli.errors import BadInputError, RefusedError
    from hsl_cli.output import print_json, say
    from node_agent.site_api import TrustWish
    from node_agent.status import SiteStatus

    if not yes and not sys.stdin.isatty():
        raise BadInputError(reason="Trusting a key needs a person who has compared its fingerprint: say so with --yes.")
    with site.open() as agent:
        held = next((one for one in agent.get("/status", SiteStatus).held_keys if one.name == name), None)
        if held is None:
            raise RefusedError(reason=f"No changed key of {name} waits for a decision here.")
        if not yes:
            say(f"{held.sentence}\nBelieved until now: {held.known}\nOffered:            {held.offered}")
            typer.confirm("Is the offered key the right one?", abort=True)
        now = agent.post("/trust", SiteStatus, TrustWish(name=name, fingerprint=held.offered))
    return print_json(now) if json else say(f"{name} is trusted with {held.offered}. {now.explanation}")
