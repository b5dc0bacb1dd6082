"""What `hsl demo` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from hsl_cli.options import DEFAULT_WORKDIR


@dataclass(frozen=True)
class DemoOptions:
    sites: Annotated[int, typer.Option(help="How many hospitals train together (2 to 32).")] = 3
    rounds: Annotated[int, typer.Option(help="Rounds of training and fusion, after round 0's initial weights.")] = 3
    data: Annotated[
        Path | None, typer.Option(help="Images for the sites, split by their domain (.npz). Default: phantoms.")
    ] = None
    sat: Annotated[Path | None, typer.Option(help="Images of the shared anchor task (.npz). Default: phantoms.")] = None
    method: Annotated[str, typer.Option(help="hsl, local, fedavg, swarm, personalised, fedprox or fedbn.")] = "hsl"
    workdir: Annotated[Path, typer.Option(help="Everything is kept here; the same folder continues.")] = DEFAULT_WORKDIR
    json: Annotated[Path | None, typer.Option(help="Write result.json here as well.")] = None
    seed: Annotated[int, typer.Option(help="Keys initial weights, phantoms, splits and training.")] = 0
    size: Annotated[int | None, typer.Option(help="Image height and width in pixels. Default: 32, or the file's.")] = (
        None
    )
    encoder: Annotated[str, typer.Option(help="resnet_small (minutes on a laptop) or resnet18 (as published).")] = (
        "resnet_small"
    )
    epochs: Annotated[int, typer.Option(help="Local epochs a round.")] = 5
    batch_size: Annotated[int, typer.Option(help="Images a training step.")] = 16
    cases: Annotated[int, typer.Option(help="At most this many images a site.")] = 600
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu"
    hub: Annotated[str, typer.Option(help="embedded, or sftpgo: the real one (`make sftpgo` builds it).")] = "embedded"
    port: Annotated[int | None, typer.Option(help="The coordinator's port. Default: a free one, chosen once.")] = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the demo that --workdir holds and begin anew.")] = False
