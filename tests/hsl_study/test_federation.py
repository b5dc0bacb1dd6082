from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsl_model.averaging import inputs_digest
from hsl_model.batches import Batch, PairLoader
from hsl_model.checkpoint import read_tensors, sha256_file, tensors_digest
from hsl_model.data import SiteData
from hsl_model.engine import EngineOptions, validate, write_initial
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.messages import FusionPlan, PlanEntry
from hsl_study import federation
from hsl_study.federation import DigestDisagreementError, FederationRound, held_files, run_federation
from tests.hsl_model.engine_helpers import arm_config, image_set, run_config, site_data, spec_of

SITES = {"clinic-b": site_data(2, num_training=6), "clinic-a": site_data(1, num_training=9)}
OPTIONS = EngineOptions(snapshot_every_steps=None)


def federate(config: RunConfig, workdir: Path, sites: dict[str, SiteData] | None = None) -> list[FederationRound]:
    return run_federation(config, sites or SITES, workdir, OPTIONS)


def tiny(arm: str, **changes: Any) -> RunConfig:
    """One local epoch of three steps."""
    return arm_config(arm, **{"num_rounds": 2, "training": {"local_epochs": 1}} | changes)


@pytest.mark.parametrize("arm", ["hsl", "fedbn", "personalised", "local"])
def test_rounds_are_reproducible_and_every_node_reports_the_same_digest(arm: str, tmp_path: Path) -> None:
    first = federate(tiny(arm), tmp_path / "a")
    again = federate(tiny(arm), tmp_path / "b", dict(reversed(SITES.items())))
    assert first == again
    assert [done.round_number for done in first] == [0, 1, 2]
    assert len({done.fused_digest for done in first}) == (2 if arm == "local" else 3)  # nothing is ever sent
    for done in first:
        assert {node.fused_digest for node in done.nodes.values()} == {done.fused_digest}
        aucs = [node.validation.auc for node in done.nodes.values()]
        assert done.mean_auc == pytest.approx(np.mean(aucs))  # type: ignore[arg-type]


def test_round_zero_is_the_initial_weights(tmp_path: Path) -> None:
    config = tiny("hsl", num_rounds=1)
    done = federate(config, tmp_path)[0]
    initial = read_tensors(write_initial(config, tmp_path / "initial").shared.path)
    assert done.fused_digest == tensors_digest(initial.items())
    assert all(node.update_sha256 is None and node.metrics is None for node in done.nodes.values())


def test_the_fused_model_is_the_weighted_mean_and_the_start_of_the_next_round(tmp_path: Path) -> None:
    federate(tiny("fedavg", num_rounds=1), tmp_path)
    updates = [read_tensors(tmp_path / "nodes" / n / "round-0001" / "shared.safetensors") for n in sorted(SITES)]
    fused = read_tensors(tmp_path / "nodes" / "clinic-b" / "round-0001" / "fused.safetensors")
    for name, tensor in fused.items():
        if tensor.dtype == np.float32:
            expected = (9 / 15) * updates[0][name].astype(np.float64) + (6 / 15) * updates[1][name].astype(np.float64)
            assert np.array_equal(tensor, expected.astype(np.float32))
    starts: dict[str, list[str]] = {}
    train_round = federation.train_round

    def remember(spec: Any, data: Any, start: Any, *rest: Any, **how: Any) -> Any:
        starts[spec.node_id] = [sha256_file(path) for path in start]
        return train_round(spec, data, start, *rest, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(federation, "train_round", remember)
        federation._Federation(tiny("fedavg", num_rounds=1), SITES, tmp_path, OPTIONS).next_round(2)
    newest = sha256_file(tmp_path / "nodes" / "clinic-a" / "round-0001" / "fused.safetensors")
    assert starts["clinic-a"][-1] == starts["clinic-b"][-1] == newest


def test_the_arms_of_a_comparison_train_on_the_same_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[bytes]] = defaultdict(list)
    batch = PairLoader.batch

    def remember(self: PairLoader, *place: int) -> Batch:
        made = batch(self, *place)
        seen[arm].append(made.images.numpy().tobytes() + made.labels.numpy().tobytes())
        return made

    monkeypatch.setattr(PairLoader, "batch", remember)
    for arm in ("hsl", "fedavg", "local"):
        federate(tiny(arm), tmp_path / arm)
    assert len(seen["hsl"]) == 2 * 2 * 3  # rounds, nodes, steps
    assert all(batches == seen["hsl"] for batches in seen.values())


def test_local_nodes_stay_themselves(tmp_path: Path) -> None:
    together = federate(tiny("local"), tmp_path / "together")
    alone = federate(tiny("local"), tmp_path / "alone", {"clinic-a": SITES["clinic-a"]})
    for both, one in zip(together, alone, strict=True):
        assert both.nodes["clinic-a"].metrics == one.nodes["clinic-a"].metrics
        assert both.nodes["clinic-a"].validation == one.nodes["clinic-a"].validation
    held = [held_files(tmp_path / where, "clinic-a", 2)[-1].read_bytes() for where in ("together", "alone")]
    assert held[0] == held[1]


def test_two_personalised_nodes_are_swarm_round_by_round(tmp_path: Path) -> None:
    personalised = federate(tiny("personalised"), tmp_path / "personalised")
    swarm = federate(tiny("swarm"), tmp_path / "swarm")
    for own, common in zip(personalised, swarm, strict=True):
        for node in SITES:
            assert own.nodes[node].update_sha256 == common.nodes[node].update_sha256
            assert own.nodes[node].validation == common.nodes[node].validation


def test_what_is_compared_where_no_common_model_exists(tmp_path: Path) -> None:
    done = federate(tiny("personalised", num_rounds=1), tmp_path)[1]
    entries = [
        PlanEntry(
            node_id=node,
            update_sha256=str(done.nodes[node].update_sha256),
            update_bytes=0,
            manifest_sha256="0" * 64,
            weight=0.5,
            num_cases=0,
        )
        for node in sorted(SITES)
    ]
    assert done.fused_digest == inputs_digest(entries)


def test_nodes_that_fused_different_models_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse_own = federation.fuse_own

    def forgets_one(spec: Any, plan: FusionPlan, files: Any, output: Path) -> Any:
        if spec.node_id == "clinic-b" and spec.round_number == 1:
            plan = plan.model_copy(update={"entries": plan.entries[:1]})
        return fuse_own(spec, plan, files, output)

    monkeypatch.setattr(federation, "fuse_own", forgets_one)
    with pytest.raises(DigestDisagreementError, match="In round 1 the fused digests differ"):
        federate(tiny("swarm"), tmp_path)


def test_the_test_images_have_no_say(tmp_path: Path) -> None:
    """Which epoch is shared, which round is best, when a run ends: all of it is the same with other test images."""
    config = tiny("swarm", training={"local_epochs": 3})
    others = {node: replace(data, test=image_set(6, 77, 0.5)) for node, data in SITES.items()}
    assert federate(config, tmp_path / "a") == federate(config, tmp_path / "b", others)
    lessons = {node: replace(data, validation=image_set(8, 78)) for node, data in SITES.items()}
    assert federate(config, tmp_path / "a") != federate(config, tmp_path / "c", lessons), "validation images have"


def test_fedbn_keeps_statistics_at_home_and_shares_the_rest(tmp_path: Path) -> None:
    config = tiny("fedbn")
    done = federate(config, tmp_path)[-1]
    held = {node: held_files(tmp_path, node, 2) for node in SITES}
    private = {node: read_tensors(files[1]) for node, files in held.items()}
    assert private["clinic-a"].keys() == private["clinic-b"].keys()
    assert any(not np.array_equal(private["clinic-a"][n], private["clinic-b"][n]) for n in private["clinic-a"])
    assert held["clinic-a"][2].read_bytes() == held["clinic-b"][2].read_bytes()
    assert not set(read_tensors(held["clinic-a"][2])) & set(private["clinic-a"])
    for node, data in SITES.items():  # what a node would deploy is what it reported on
        found = validate(spec_of(config, 2, node), data, held[node], OPTIONS)
        assert found == done.nodes[node].validation


def test_a_finished_or_broken_off_federation_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = federate(tiny("swarm", num_rounds=3), tmp_path / "whole")
    assert federate(tiny("swarm", num_rounds=3), tmp_path / "whole") == whole
    train_round, calls = federation.train_round, iter(range(100))

    def break_off(*given: Any, **how: Any) -> Any:
        if next(calls) == 3:  # the second node of the second round
            raise KeyboardInterrupt
        return train_round(*given, **how)

    monkeypatch.setattr(federation, "train_round", break_off)
    with pytest.raises(KeyboardInterrupt):
        federate(tiny("swarm", num_rounds=3), tmp_path / "broken")
    assert federate(tiny("swarm", num_rounds=3), tmp_path / "broken") == whole


def test_old_rounds_are_forgotten_but_not_the_best(tmp_path: Path) -> None:
    rounds = federate(tiny("swarm", num_rounds=4), tmp_path)
    kept = {int(path.name[-4:]) for path in (tmp_path / "nodes" / "clinic-a").iterdir()}
    best = federation.best_round([done.mean_auc for done in rounds])
    assert kept == {0, best, 4}


def test_convergence_ends_a_run_before_its_limit(tmp_path: Path) -> None:
    stop_soon = {"patience": 1, "min_rounds": 2, "min_improvement": 1.0}
    assert len(federate(tiny("swarm", num_rounds=9, convergence=stop_soon), tmp_path)) == 3


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    federate(tiny("swarm", num_rounds=1), tmp_path)
    with pytest.raises(ConfigError, match="holds another run"):
        federate(tiny("swarm", num_rounds=2), tmp_path)


def test_a_run_can_start_from_a_file(tmp_path: Path) -> None:
    given = write_initial(run_config("swarm", initial={"seed": 3}), tmp_path).shared
    config = tiny("swarm", num_rounds=1, initial={"seed": None, "file_sha256": given.sha256})
    with pytest.raises(ConfigError, match="give that file"):
        run_federation(config, SITES, tmp_path / "run", OPTIONS)
    rounds = run_federation(config, SITES, tmp_path / "run", OPTIONS, initial=given.path)
    assert rounds[0].fused_digest == tensors_digest(read_tensors(given.path).items())
