"""The models a site holds, in a form that needs no daemon: `models/<run_id>/` for `hsl predict --model`.

round-0007.json     one per round that is still kept: configuration, digest, and the files in the order they are laid
                    one over the other (later files win)
model.json          the same for the newest round
<sha256>.safetensors   hard links into the store: no space of their own
"""

import os
import shutil
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

from hsl_model.durable import fsync, make_folder, publish, write_bytes
from hsl_model.protocol.config import Message, NodeId, RunConfig, Sha256
from hsl_model.protocol.manifest import RunId, canonical_json
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.protocol.states import Fused
from node_agent.facts import RoundFacts
from node_agent.settings import NodeSettings

NEWEST = "model.json"

_one_at_a_time = threading.Lock()
"""The round writes cards while errands release some: a file lies here for a moment before the card that names it."""


class ModelCard(Message):
    run_id: RunId
    node_id: NodeId
    round_number: int
    config: RunConfig
    fused_digest: Sha256
    validation: ValidationMetrics | None
    files: tuple[str, ...]


def write_model_card(settings: NodeSettings, node_id: str, facts: RoundFacts, files: Collection[Path]) -> None:
    """The model that was adopted in this round."""
    if facts.fused is None:
        return
    card = _card(node_id, facts, facts.round_number, facts.fused.digest, files)
    _write(settings, files, card.model_copy(update={"validation": facts.validation}))


def write_start_card(settings: NodeSettings, node_id: str, facts: RoundFacts, files: Collection[Path]) -> None:
    """Let the card of the round before speak of the ledger's model: this node may have been away, or have deviated."""
    start = facts.start
    if start is None or facts.fused_kind is not Fused.COMMON:
        return
    path = settings.model_folder(facts.run_id) / _name(start.round_number)
    if path.exists() and read_model_card(path).fused_digest == start.fused_digest:
        return
    _write(settings, files, _card(node_id, facts, start.round_number, start.fused_digest, files))


def release_model_cards(settings: NodeSettings, run_id: str, before_round: int, keep: Collection[str]) -> None:
    """Forget the cards of released rounds, and the files that no card names any more. The newest card stays."""
    folder = settings.model_folder(run_id)
    with _one_at_a_time:
        if not (folder / NEWEST).exists():
            return
        newest = read_model_card(folder / NEWEST)
        kept = {f"{sha256}.safetensors" for sha256 in keep}
        cards = _cards(folder)
        for path, card in list(cards.items()):
            if card.round_number < min(before_round, newest.round_number) and not kept & set(card.files[-1:]):
                path.unlink()
                del cards[path]
        _remove_unnamed(folder, cards.values())


def finish_model_cards(settings: NodeSettings, run_id: str) -> None:
    """The run is over for this node: nothing stays that a power cut in the middle of a release brought back."""
    folder = settings.model_folder(run_id)
    with _one_at_a_time:
        _remove_unnamed(folder, _cards(folder).values())


def _cards(folder: Path) -> dict[Path, ModelCard]:
    return {path: read_model_card(path) for path in sorted(folder.glob("round-*.json"))}


def _remove_unnamed(folder: Path, cards: Iterable[ModelCard]) -> None:
    """The files that none of `cards` names. Other cards' end is on the disk first: a card never outlives its files."""
    named = {name for card in cards for name in card.files}
    unnamed = [path for path in folder.glob("*.safetensors") if path.name not in named]
    if not unnamed:
        return
    fsync(folder)
    for path in unnamed:
        path.unlink()
    fsync(folder)


def _card(node_id: str, facts: RoundFacts, round_number: int, digest: str, files: Collection[Path]) -> ModelCard:
    return ModelCard(
        run_id=facts.run_id,
        node_id=node_id,
        round_number=round_number,
        config=facts.config,
        fused_digest=digest,
        validation=None,
        files=tuple(path.name for path in files),
    )


def _write(settings: NodeSettings, files: Collection[Path], card: ModelCard) -> None:
    """Cards last: a card names only files that are there."""
    folder = settings.model_folder(card.run_id)
    with _one_at_a_time:
        make_folder(folder)
        for path in files:
            _link(path, folder / path.name)
        write_bytes(folder / _name(card.round_number), canonical_json(card))
        write_bytes(folder / NEWEST, canonical_json(card))


def _name(round_number: int) -> str:
    return f"round-{round_number:04d}.json"


def read_model_card(path: Path) -> ModelCard:
    return ModelCard.model_validate_json(path.read_bytes())


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    temporary = target.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, temporary)
    publish(temporary, target)
