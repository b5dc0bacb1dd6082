"""`hsl demo`: the command. What it does stands in `hsl_cli/demo/`."""

import typer

from hsl_cli.demo.options import DemoOptions
from hsl_cli.options import grouped


@grouped
def demo(options: DemoOptions) -> None:
    """Three hospitals train together on this machine: hub, coordinator and agents as separate processes.

    Shows every site live and ends with a table, a figure (auc.png) and result.json in --workdir. Ctrl-C stops all
    processes; the same command continues where it was. Exit code 0 only if every round was completed and every node
    reported the same fused digest.
    """
    from hsl_cli.demo.run import run_demo

    if code := run_demo(options):
        raise typer.Exit(code)
