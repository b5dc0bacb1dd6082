"""hsl without its shared anchor task, and local."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from hsl_model.checkpoint import read_tensors
from tests.hsl_model.engine_helpers import image_set, initial_file, result_bytes, run_config, site_data, spec_of, train


def test_no_sat_is_blind_to_the_shared_anchor_images(tmp_path: Path) -> None:
    config = run_config("hsl", options={"use_sat": False})
    start = [initial_file(config, tmp_path)]
    first = train(spec_of(config), site_data(), start, tmp_path / "a")
    other = replace(site_data(), sat=image_set(8, 12345))
    assert train(spec_of(config), other, start, tmp_path / "b").shared.sha256 == first.shared.sha256
    with_sat = run_config("hsl")
    pair = [train(spec_of(with_sat), data, start, tmp_path / n) for n, data in (("c", site_data()), ("d", other))]
    assert pair[0].shared.sha256 != pair[1].shared.sha256


def test_no_sat_leaves_the_second_tower_as_it_was(tmp_path: Path) -> None:
    """Nothing but tower 1 has a loss, so the second task's gate, tower and skip get no gradient and no decay."""
    config = run_config("hsl", options={"use_sat": False})
    start = [initial_file(config, tmp_path)]
    before = read_tensors(start[0])
    after = read_tensors(train(spec_of(config), site_data(), start, tmp_path / "w").shared.path)
    untouched = [name for name in before if np.array_equal(before[name], after[name])]
    trained = read_tensors(train(spec_of(run_config("hsl")), site_data(), start, tmp_path / "v").shared.path)
    assert untouched
    assert all(not np.array_equal(before[name], trained[name]) for name in untouched)


def test_local_publishes_nothing_and_keeps_everything(tmp_path: Path) -> None:
    config = run_config("local")
    start = [initial_file(config, tmp_path)]
    result = train(spec_of(config), site_data(), start, tmp_path / "w")
    assert result.shared.num_bytes == 0
    assert result.shared.path.read_bytes() == b""
    assert result.private is not None
    assert read_tensors(result.private.path).keys() == read_tensors(start[0]).keys()
    # the same training as any other method's: only what is published differs
    fedavg = train(spec_of(run_config("fedavg")), site_data(), start, tmp_path / "v")
    assert fedavg.shared.sha256 == result.private.sha256
    assert sorted(result_bytes(tmp_path / "w")) == ["private.safetensors", "result.json", "shared.safetensors"]
