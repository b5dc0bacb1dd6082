"""`hsl demo` on real images, killed into over and over; by hand, since the images are not ours to commit.

HSL_TEST_IMAGES=FILE.npz HSL_TEST_SAT=FILE.npz make test-long ARGS="tests/hsl_cli/test_demo_real_images.py -s"
"""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hsl_cli.demo.processes import Record

KINDS = ("coordinator", "site-1", "hub", "child of site-2", "site-3", "child of site-1", "site-2", "child of site-3")
LINES_BETWEEN_KILLS = (
    2  # each line of the demo is a change of somebody's phase; what was killed needs time to come back
)


@pytest.mark.long
@pytest.mark.e2e
def test_kill_9_of_any_process_on_real_images_changes_no_bit(tmp_path: Path) -> None:
    images, sat = os.environ.get("HSL_TEST_IMAGES"), os.environ.get("HSL_TEST_SAT")
    if not images or not sat:
        pytest.skip("name real images: HSL_TEST_IMAGES=FILE.npz HSL_TEST_SAT=FILE.npz")
    options = ("--data", str(Path(images).resolve()), "--sat", str(Path(sat).resolve()), "--rounds", "3")
    undisturbed = result_of(tmp_path / "undisturbed", options, killed=Counter(), kinds=itertools.repeat(None))
    killed: Counter[str] = Counter()
    disturbed = result_of(tmp_path / "disturbed", options, killed=killed, kinds=itertools.cycle(KINDS))
    print(f"killed: {dict(killed)}; final digest {disturbed['final_digest']}")
    assert set(killed) == set(KINDS)
    assert disturbed["final_digest"] == undisturbed["final_digest"]
    for one, other in zip(undisturbed["rounds"], disturbed["rounds"], strict=True):
        assert set(other["digests"].values()) == {one["fused_digest"]}


def result_of(workdir: Path, options: tuple[str, ...], killed: Counter[str], kinds: Iterator[str | None]) -> dict:
    command = [sys.executable, "-m", "hsl_cli.main", "demo", "--workdir", str(workdir), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        said = []
        wanted = next(kinds)
        for line in demo.stdout:
            said.append(line)
            began = any("round 0 opened" in earlier for earlier in said)
            if wanted and began and len(said) % LINES_BETWEEN_KILLS == 0 and kill(workdir, wanted):
                killed[wanted] += 1
                wanted = next(kinds)
        assert demo.wait(60) == 0, "".join(said)
    result: dict = json.loads((workdir / "result.json").read_text())
    return result


def kill(workdir: Path, kind: str) -> bool:
    """kill -9. False when there is no such process just now."""
    name = kind.removeprefix("child of ")
    recorded = Record.model_validate_json((workdir / "processes.json").read_bytes()).processes.get(name)
    if recorded is None:
        return False  # it was killed a moment ago and is not yet started again
    try:
        victim = psutil.Process(recorded.pid)
        if name != kind:
            victim = victim.children()[0]
        victim.kill()
    except (psutil.NoSuchProcess, IndexError):
        return False
    return True
