"""From an agent's folder to a model's folder: reads the cards and files that the agent keeps, changes nothing there."""

from pathlib import Path

from pydantic import ValidationError

from hsl_cli.errors import BadInputError
from hsl_cli.model_folder import ModelCard, write_model
from hsl_cli.options import Site
from node_agent.bindings import read_binding
from node_agent.model_card import NEWEST, read_model_card
from node_agent.settings import NodeSettings


def export_model(site: Site, run_id: str, round_number: int | None, to: Path) -> ModelCard:
    settings = site.settings()
    folder = settings.model_folder(run_id)
    name = NEWEST if round_number is None else f"round-{round_number:04d}.json"
    try:
        kept = read_model_card(folder / name)
    except FileNotFoundError as error:
        raise BadInputError(reason=_what_is_there(settings, run_id)) from error
    except ValidationError as error:
        raise BadInputError(reason=f"{folder / name} cannot be read; was it written by a newer agent?") from error
    sat = None
    if kept.config.sat_digest is not None:
        sat = read_binding(settings, kept.config.task.task_id).sat_path
    card = ModelCard(
        run_id=kept.run_id,
        node_id=kept.node_id,
        round_number=kept.round_number,
        fused_digest=kept.fused_digest,
        config=kept.config,
    )
    write_model(card, [folder / file for file in kept.files], sat, to)
    return card


def _what_is_there(settings: NodeSettings, run_id: str) -> str:
    rounds = sorted(path.stem.removeprefix("round-") for path in settings.model_folder(run_id).glob("round-*.json"))
    if rounds:
        numbers = ", ".join(str(int(found)) for found in rounds)
        return f"{settings.workdir} keeps run {run_id} after these rounds: {numbers}; choose one with --round."
    runs = sorted(path.name for path in (settings.workdir / "models").glob("*") if path.is_dir())
    if runs:
        return f"{settings.workdir} holds no model of run {run_id}; it holds {', '.join(runs)}."
    return f"{settings.workdir} holds no fused model yet; is it the folder of an agent that finished a round?"
