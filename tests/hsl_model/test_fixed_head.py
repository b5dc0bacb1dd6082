"""With a fixed head a round changes everything but the head; without, the head as well."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsl_model.engine import initial_tensors
from tests.hsl_model.engine_helpers import held_tensors, initial_file, run_config, site_data, spec_of, train

GROUP = {"normalisation": "group"}
PLAIN = ("head.weight", "head.bias")
TOWER = tuple(f"primary_tower.{layer}.{part}" for layer in ("hidden", "output") for part in ("weight", "bias"))
RELATIVE = ("relative_head.weight", "relative_head.bias")
BOTH_TOWERS = TOWER + tuple(name.replace("primary", "sat") for name in TOWER)


@pytest.mark.parametrize(
    ("method", "network", "head"),
    [
        ("swarm", {}, PLAIN),
        ("fedprox", {}, PLAIN),
        ("swarm", {"architecture": "twin"}, PLAIN),
        ("swarm", {"architecture": "trunk"}, TOWER),
        ("swarm", {"architecture": "relative"}, RELATIVE),
        ("hsl", {}, BOTH_TOWERS),
    ],
)
def test_a_fixed_head_keeps_its_bits_and_everything_else_is_trained(
    method: str, network: dict[str, Any], head: tuple[str, ...], tmp_path: Path
) -> None:
    """Weight decay, too, leaves it alone."""
    changed = {}
    for fixed in (True, False):
        strong = {"fixed_head": fixed, "weight_decay": 0.1, "share_epoch": "last"}
        config = run_config(method, network=GROUP | network, training=strong)
        folder = tmp_path / str(fixed)
        after = held_tensors(train(spec_of(config), site_data(), [initial_file(config, folder)], folder / "w"))
        start = initial_tensors(config)
        changed[fixed] = {name for name in start if not np.array_equal(after[name], start[name])}
    assert changed[False] == set(start)
    assert changed[True] == set(start) - set(head)
