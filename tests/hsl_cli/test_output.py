"""Tables on a narrow terminal, in a file and in a pipe."""

import pytest
from rich.console import Console

from hsl_cli.output import show, table

ARMS = [f"swarm-views-noise-photometric-{number}" for number in range(8)]
WIDE = table("arms", ARMS, [[f"{number}.000 ± 0.001" for number in range(8)]])


def test_what_is_not_a_terminal_gets_every_name_and_each_row_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show(WIDE)
    heads, row = (line for line in capsys.readouterr().out.splitlines() if "0" in line)
    assert all(arm in heads for arm in ARMS)
    assert row.count("± 0.001") == 8


def test_a_narrow_terminal_breaks_names_and_cuts_none(capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=60, force_terminal=True, color_system=None).print(WIDE)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 60
