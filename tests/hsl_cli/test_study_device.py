"""`hsl study run`: where cells are run, and what is said where that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from hsl_cli import study
from hsl_model.locking import alone
from hsl_study import engines
from hsl_study.grid import Grid


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--device", "tpu"), "error: --device tpu: choose one of cpu, cuda."),
        (("--device", "cuda"), "error: --device cuda: torch finds no usable GPU on this machine; use --device cpu."),
        (("--engine", "slurm"), "error: there is no engine 'slurm'; choose one of local, ray"),
        (
            ("--engine", "ray"),
            "error: --engine ray needs Ray, which is not installed here: pip install",
        ),
    ],
)
def test_what_this_machine_has_not_is_one_sentence_and_2(
    options: tuple[str, ...], said: str, hsl: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    told = hsl("study", "run", "smoke", "--workdir", tmp_path / "study", *options)
    assert told.exit_code == 2
    assert told.stderr.startswith(said)
    assert len(told.stderr.splitlines()) == 1


def test_options_reach_the_cells_and_a_study_that_was_stopped_ends_with_4(
    hsl: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def run(self: Grid, jobs: int, budget_hours: float | None, stop_after_s: float | None = None) -> int:
        given.extend([self.options, self.engine, jobs, stop_after_s])
        return 3

    monkeypatch.setattr(Grid, "run", run)
    monkeypatch.setattr(study, "report", lambda workdir: None)
    options = ("--channels-last", "--compile", "--cache-images", "--jobs", 2, "--stop-after", 1.5)
    told = hsl("study", "run", "smoke", "--workdir", tmp_path / "study", *options)
    assert told.exit_code == 4
    assert "3 cells are left; the same command goes on with them." in told.stdout
    chosen, engine, jobs, stop_after_s = given
    assert (chosen.device, chosen.channels_last, chosen.compiled, chosen.cache_on_device) == ("cpu", True, True, True)
    assert (engine, jobs, stop_after_s) == (engines.local, 2, 90.0)


def test_a_second_command_in_the_folder_of_a_study_that_is_running_is_refused(
    hsl: Callable[..., Result], tmp_path: Path
) -> None:
    """It could else take the place of a study that is still reading its images."""
    (tmp_path / "study").mkdir()
    with alone(tmp_path / "study" / "lock", lambda: RuntimeError("somebody else is there")):
        told = hsl("study", "run", "smoke", "--workdir", tmp_path / "study")
    assert told.exit_code == 2
    assert "Another study is running in" in told.stderr
    assert not (tmp_path / "study" / "study.json").exists()
