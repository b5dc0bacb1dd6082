"""A few strikes of every sort, drawn from all, on both hubs: a part of `make faults`. `make crash-points` does all of
them, `make test-long` each alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.alliance import ROOT
from tests.sftpgo.helpers import need_sftpgo

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(900)]


def strike(*options: str) -> dict[str, Any]:
    """The figures of a campaign that ended well."""
    if shutil.which("gcc") is None:
        reason = "gcc is not installed (Debian: gcc, libc6-dev): no power can be cut without `power.c`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.crash", "--workers", "1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.parametrize("hub", ["embedded", "sftpgo"])
def test_a_sample_of_kills_and_power_cuts(hub: str, count: Callable[[str, int], None]) -> None:
    if hub == "sftpgo":
        need_sftpgo()
    figures = strike("--sample", "32", "--hub", hub)
    assert figures["points"] > 300, "the hook is not where it was"
    num_met = figures["kills"] + figures["hub_kills"] + figures["power_cuts"]
    assert num_met + figures["not_met"] == 32
    assert figures["not_met"] <= 4, "most points are there in every run"
    count(f"strikes at crash points, hub {hub}", num_met)


@pytest.mark.parametrize(
    ("harms", "only"),
    [
        ("kill", r"coordinator .*before commit .*(participation|round)\."),  # ledger and tables in one transaction
        ("power,names", "site-2 .* round 3 .*adopting .*before replace models"),  # the last model survives
    ],
    ids=["commits", "models"],
)
def test_where_a_mistake_would_show(harms: str, only: str) -> None:
    """What the planted bugs are held against (`tests/planted`)."""
    figures = strike("--harms", harms, "--only", only, "--until-wrong")
    assert figures["kills"] + figures["power_cuts"] >= 3


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_every_occurrence_in_a_run_of_its_own() -> None:
    strike("--long", "--workers", str(len(os.sched_getaffinity(0)) + 1))
