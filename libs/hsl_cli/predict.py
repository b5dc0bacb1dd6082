"""`hsl predict`: score new images with an agreed model."""

from pathlib import Path
from typing import Annotated

import typer

from hsl_cli.options import JsonFlag


def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    model: Annotated[Path, typer.Option(help="A model's folder, as `hsl node export` writes it.", show_default=False)],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    json: JsonFlag = False,
) -> None:
    """Score images with a trained model: the probability of the task's positive class, one line an image.

    The score of an image depends on nothing but the image and the model. An image that cannot be read is said so on
    its line; the others are scored, and the exit code is 2.
    """
    from hsl_cli.errors import BAD_INPUT
    from hsl_cli.model_folder import score
    from hsl_cli.output import print_json, say, warn

    scores = score(images, model, device)
    if json:
        print_json(scores)
    else:
        for one in scores:
            if one.probability is not None:
                say(f"{one.probability:.4f}  {one.image}")
            else:
                warn(f"error: {one.problem}")
    if any(one.probability is None for one in scores):
        raise typer.Exit(BAD_INPUT)
