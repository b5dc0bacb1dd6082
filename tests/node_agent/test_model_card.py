"""The cards of a site's models and their files, while another thread writes some and after the power went."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import combinations
from pathlib import Path

import pytest

import node_agent.model_card
from node_agent.facts import FusedModel, RoundFacts
from node_agent.model_card import finish_model_cards, read_model_card, release_model_cards, write_model_card
from node_agent.settings import NodeSettings
from tests.node_agent.alliance import make_config

RUN = "run-1"


def write(settings: NodeSettings, round_number: int) -> None:
    """A round's model of two files: the initial weights, the same in every round, and the round's own."""
    digest = str(round_number) * 64
    files = [settings.workdir / f"{'a' * 64}.safetensors", settings.workdir / f"{digest}.safetensors"]
    for file in files:
        file.write_text(file.stem)
    fused = FusedModel(plan_version=1, redo=0, digest=digest, model_sha256=digest)
    facts = RoundFacts(run_id=RUN, round_number=round_number, config=make_config(), fused=fused)
    write_model_card(settings, "site-1", facts, files)


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    found = NodeSettings(workdir=tmp_path)
    for round_number in (0, 1, 2, 3):
        write(found, round_number)
    return found


def state(folder: Path) -> tuple[set[int], set[str], set[str]]:
    """Rounds with a card, the files they name, and the files that are there."""
    cards = [read_model_card(path) for path in folder.glob("*.json")]
    named = {name for card in cards for name in card.files}
    return {card.round_number for card in cards}, named, {path.name for path in folder.glob("*.safetensors")}


def test_a_release_does_not_take_the_file_of_a_card_that_is_being_written(
    settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = node_agent.model_card.write_bytes
    with ThreadPoolExecutor(1) as errands:

        def released_meanwhile(path: Path, data: bytes) -> None:
            released = errands.submit(release_model_cards, settings, RUN, 3, ())
            wait([released], timeout=0.2)  # it has its turn here, unless it waits for the card
            write_bytes(path, data)

        monkeypatch.setattr(node_agent.model_card, "write_bytes", released_meanwhile)
        write(settings, 4)
    rounds, named, there = state(settings.model_folder(RUN))
    assert rounds == {3, 4}
    assert named == there


Step = tuple[str, str]  # "unlink" or "fsync", and what


def steps_of_a_release(settings: NodeSettings, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    steps: list[Step] = []
    unlink = Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        steps.append(("unlink", path.name))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlinked)
        patch.setattr(node_agent.model_card, "fsync", lambda path: steps.append(("fsync", path.name)))
        release_model_cards(settings, RUN, 3, ())
    return steps


def after_power_cuts(steps: list[Step]) -> Iterator[set[str]]:
    """Names that are gone when the power goes after each step: all before the last fsync, and any of those behind."""
    for end in range(len(steps) + 1):
        done = steps[:end]
        last = max((number for number, (what, _) in enumerate(done) if what == "fsync"), default=-1)
        sure = {name for what, name in done[:last] if what == "unlink"} if last >= 0 else set()
        unsure = [name for _, name in done[last + 1 :]]
        for number in range(len(unsure) + 1):
            for some in combinations(unsure, number):
                yield sure | set(some)


def test_no_power_cut_during_a_release_leaves_a_card_without_its_files_nor_after_the_run_a_file_without_a_card(
    settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = settings.model_folder(RUN)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    steps = steps_of_a_release(settings, monkeypatch)
    assert {name for what, name in steps if what == "unlink"} == set(before) - {path.name for path in folder.iterdir()}
    disks = list(after_power_cuts(steps))
    assert len(disks) > 10
    for gone in disks:
        for name, data in before.items():
            (folder / name).unlink(missing_ok=True)
            if name not in gone:
                (folder / name).write_bytes(data)
        rounds, named, there = state(folder)
        assert named <= there, gone
        finish_model_cards(settings, RUN)
        assert state(folder) == (rounds, named, named)


def test_a_run_that_never_had_a_model_is_finished_all_the_same(tmp_path: Path) -> None:
    finish_model_cards(NodeSettings(workdir=tmp_path), RUN)
    assert list(tmp_path.iterdir()) == []
