"""A model's folder: everything that scoring needs, so that it can be copied to where the images are.

model.safetensors   all tensors of the network, the shared ones and the site's own
run.json            whose model it is, and the run's configuration (`ModelCard`)
sat.safetensors     the SAT bundle whose anchors score an image; only where the network has a second task
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from hsl_cli.device import check_device
from hsl_cli.errors import BadInputError
from hsl_model.checkpoint import read_tensors, write_tensors
from hsl_model.durable import publish, write_bytes
from hsl_model.protocol.config import Message, RunConfig

MODEL = "model.safetensors"
CARD = "run.json"
SAT = "sat.safetensors"


class ModelCard(Message):
    version: Literal[1] = 1
    run_id: str
    node_id: str
    round_number: int = Field(ge=0)
    fused_digest: str | None = None
    config: RunConfig


class Score(Message):
    """`probability` is None where the image could not be read; `problem` then says why."""

    image: str
    positive_class: str
    probability: float | None
    problem: str | None = None


def write_model(card: ModelCard, tensors: Sequence[Path], sat: Path | None, folder: Path) -> None:
    """Lay the tensor files over one another, later ones win, and write the folder; run.json last, as its seal."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)
    except OSError as error:
        raise BadInputError(
            reason=f"{folder}: cannot write there ({error.strerror}); choose another folder."
        ) from error
    whole = {name: array for path in tensors for name, array in read_tensors(path).items()}
    write_tensors(folder / MODEL, whole)
    if sat is not None:
        part = folder / f"{SAT}.part"
        shutil.copyfile(sat, part)
        publish(part, folder / SAT)
    write_bytes(folder / CARD, card.model_dump_json(indent=2).encode())


def read_card(folder: Path) -> ModelCard:
    try:
        return ModelCard.model_validate_json((folder / CARD).read_bytes())
    except FileNotFoundError as error:
        raise BadInputError(
            reason=f"--model {folder}: there is no {CARD} in it; `hsl node export` writes a model's folder."
        ) from error
    except (OSError, ValidationError) as error:
        raise BadInputError(reason=f"--model {folder}: its {CARD} cannot be read; export the model again.") from error


def score(images: Sequence[Path], folder: Path, device: str) -> list[Score]:
    """One `Score` an image, in order. An image that cannot be read does not keep the others from being scored."""
    import numpy as np

    from hsl_data.errors import UnreadableImageError
    from hsl_data.images import load_image
    from hsl_data.sat import load_sat
    from hsl_model.engine import EngineOptions, predict

    check_device(device)
    card = read_card(folder)
    sat = load_sat(folder / SAT, card.config.sat_digest) if card.config.sat_digest else None
    positive = card.config.task.positive_class
    scores: dict[int, Score] = {}
    pixels = []
    for index, path in enumerate(images):
        try:
            pixels.append((index, load_image(path, card.config.task)))
        except UnreadableImageError as error:
            scores[index] = Score(image=str(path), positive_class=positive, probability=None, problem=error.sentence())
    if pixels:
        stack = np.stack([image for _, image in pixels])
        found = predict(card.config, stack, [folder / MODEL], sat, EngineOptions(device=device))
        for (index, _), probability in zip(pixels, found, strict=True):
            scores[index] = Score(image=str(images[index]), positive_class=positive, probability=float(probability))
    return [scores[index] for index in range(len(images))]
