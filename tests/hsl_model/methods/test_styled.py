import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hsl_model.batches import Batch, PairLoader
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions, Interrupted, RoundResult, RoundSpec
from hsl_model.losses import task_loss
from hsl_model.methods import load
from hsl_model.methods.base import LocalRun
from hsl_model.model_state import initial_network
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.manifest import SiteStyle, canonical_json
from hsl_model.style import style_of
from hsl_study.federation import NodeWork, run_federation, train_apart
from tests.hsl_model.engine_helpers import image_set, initial_file, result_bytes, run_config, site_data, spec_of, train

GROUP = {"normalisation": "group"}
ANCHORS = {"consist": "anchors", "restyle_own": False}
OWN = {"consist": "own", "restyle_own": False}


def darker(cases: ImageSet) -> ImageSet:
    return replace(cases, images=cases.images // 3)


def dark_site() -> SiteData:
    data = site_data(2)
    return replace(data, training=darker(data.training))


def styled(options: dict[str, Any], **changes: Any) -> RunConfig:
    return run_config("styled", options=options, network=GROUP, **changes)


def spec(options: dict[str, Any], **changes: Any) -> RoundSpec:
    """Round 2 of a run whose other site is darker."""
    styles: dict[str, SiteStyle] = {"clinic-b": style_of(dark_site().training)}
    return replace(spec_of(styled(options, **changes), 2), styles=styles)


def batch_of(options: dict[str, Any], data: SiteData | None = None, **changes: Any) -> Batch:
    return PairLoader(spec(options, **changes), data or site_data(), "cpu").batch(0, 0)


def test_the_consistency_term_and_its_gradient_by_hand() -> None:
    """w (1 - cos) of the encoder's features; its gradient reaches both views, and the encoder alone."""
    network = initial_network(styled(ANCHORS))
    run, batch = LocalRun(network), batch_of(ANCHORS)
    assert batch.views is not None
    output = network(batch.images, None)
    term = load("styled", {**ANCHORS, "weight": 3.0}).loss(run, output, batch) - task_loss(output, batch)
    one, other = (network.primary_encoder(view) for view in batch.views)
    cosines = (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1))
    assert term.item() == pytest.approx(3.0 * (1.0 - cosines.mean().item()), abs=1e-5)
    assert term.item() > 1e-4
    names = [name for name, _ in network.named_parameters() if name.startswith("primary_encoder.")]
    wanted = [network.get_parameter(name) for name in names]
    by_hand = torch.autograd.grad(3.0 * (1.0 - cosines.mean()), wanted)
    for name, found, expected in zip(names, torch.autograd.grad(term, wanted), by_hand, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=name)
    assert max(gradient.abs().max().item() for gradient in by_hand) > 1e-3
    same = replace(batch, views=(batch.views[0], batch.views[0]))
    assert (load("styled", ANCHORS).loss(run, output, same) - task_loss(output, same)).item() == pytest.approx(
        0, abs=1e-5
    )


@pytest.mark.parametrize("consist", ["anchors", "own"])
def test_weight_zero_is_swarm_bit_for_bit_and_another_is_not(consist: str, tmp_path: Path) -> None:
    swarm = run_config("swarm", network=GROUP)
    start = [initial_file(swarm, tmp_path)]
    expected = train(spec_of(swarm, 2), site_data(), start, tmp_path / "swarm").shared.sha256
    for weight, is_swarm in ((0.0, True), (1.0, False)):
        options = {"consist": consist, "restyle_own": False, "weight": weight}
        found = train(spec(options), site_data(), start, tmp_path / str(weight)).shared.sha256
        assert (found == expected) is is_swarm
    without = {"consist": "none", "restyle_own": False}
    assert train(spec(without), site_data(), start, tmp_path / "without").shared.sha256 == expected


def test_views_are_the_anchors_that_hsl_is_shown_in_two_styles() -> None:
    """Each image once in either style of two, and no primary image is touched by it."""
    plain = {"training": {"augment": False}}
    data, batch = site_data(), batch_of(ANCHORS, **plain)
    hsl = PairLoader(spec_of(run_config("hsl", **plain), 2), data, "cpu").batch(0, 0)
    assert hsl.sat_images is not None
    assert batch.views is not None
    assert torch.equal(batch.images, hsl.images)
    assert batch.sat_images is None
    means = torch.stack([view.mean(dim=(1, 2, 3)) for view in batch.views])
    assert ((means[0] - means[1]).abs() > 0.5).all(), "one bright, one dark"
    for view in batch.views:
        for shown, anchor in zip(view.flatten(1), hsl.sat_images.flatten(1), strict=True):
            assert np.corrcoef(shown.numpy(), anchor.numpy())[0, 1] > 0.9
    part = batch.part(slice(1, 3))
    assert part.views is not None
    assert torch.equal(part.views[1], batch.views[1][1:3])


def test_own_views_are_of_the_batch_as_it_is_stored_also_where_it_is_restyled() -> None:
    one, both = batch_of(OWN), batch_of({"consist": "own"})
    assert one.views is not None
    assert both.views is not None
    assert all(torch.equal(view, same) for view, same in zip(one.views, both.views, strict=True))
    assert not torch.equal(one.images, both.images)


def test_restyled_images_are_the_primary_batch_in_either_style() -> None:
    large = {"training": {"images_per_epoch": 64, "batch_size": 64, "augment": False}}
    stored, shown = (batch_of({"restyle_own": wanted}, **large) for wanted in (False, True))
    assert torch.equal(stored.labels, shown.labels)
    assert shown.views is None
    kept = (stored.images - shown.images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 16 < kept.sum() < 48, "about half of them in the site's own style"
    darker_by = (stored.images - shown.images).mean(dim=(1, 2, 3))[~kept]
    assert (darker_by > 0.2).all()


def test_in_the_first_round_a_site_knows_its_own_style_alone() -> None:
    first = spec_of(styled({"consist": "own"}))
    batch = PairLoader(first, site_data(), "cpu").batch(0, 0)
    plain = PairLoader(spec_of(run_config("swarm")), site_data(), "cpu").batch(0, 0)
    assert batch.views is not None
    for images in (batch.images, *batch.views):
        torch.testing.assert_close(images, plain.images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"consist": "anchors"}, {"consist": "own"}])
def test_a_stopped_and_resumed_round_is_the_undisturbed_one(options: dict[str, Any], tmp_path: Path) -> None:
    start = [initial_file(styled(options), tmp_path)]
    train(spec(options), site_data(), start, tmp_path / "whole")
    questions = iter(range(100))
    every = EngineOptions(snapshot_every_steps=1)
    with pytest.raises(Interrupted):
        train(
            spec(options), site_data(), start, tmp_path / "cut", options=every, should_stop=lambda: next(questions) == 4
        )
    train(spec(options), site_data(), start, tmp_path / "cut")
    assert result_bytes(tmp_path / "cut") == result_bytes(tmp_path / "whole")


def test_manifests_tell_the_styles_and_the_next_round_has_them(tmp_path: Path) -> None:
    """Also where a folder that ends after round 1 goes on. Other methods tell none, in the bytes they had."""
    sites = {"clinic-a": site_data(1), "clinic-b": dark_site()}
    styles = {node: style_of(site.training) for node, site in sites.items()}
    options = EngineOptions(snapshot_every_steps=None)
    tiny: dict[str, Any] = {"training": {"local_epochs": 1}}
    two, seen = styled(ANCHORS, num_rounds=2, **tiny), []

    def until_killed(nodes: Sequence[NodeWork], options: EngineOptions) -> dict[str, RoundResult]:
        seen.extend((node.spec.round_number, dict(node.spec.styles)) for node in nodes)
        if nodes[0].spec.round_number == 2:
            raise KeyboardInterrupt
        return train_apart(nodes, options)

    with pytest.raises(KeyboardInterrupt):
        run_federation(two, sites, tmp_path / "killed", options, train=until_killed)
    assert seen == [(1, {}), (1, {}), (2, styles), (2, styles)]
    rounds = run_federation(two, sites, tmp_path / "killed", options)
    assert rounds == run_federation(two, sites, tmp_path / "whole", options)
    told = {node: part.metrics.style for node, part in rounds[1].nodes.items() if part.metrics is not None}
    assert told == styles
    swarm = run_federation(run_config("swarm", num_rounds=1, **tiny), sites, tmp_path / "swarm", options)
    metrics = swarm[1].nodes["clinic-a"].metrics
    assert metrics is not None
    assert "style" not in json.loads(canonical_json(metrics))


def test_another_site_s_style_is_another_round(tmp_path: Path) -> None:
    """A finished round is not handed out for other styles."""
    start = [initial_file(styled(OWN), tmp_path)]
    results = [train(one, site_data(), start, tmp_path / "work") for one in (spec(OWN), replace(spec(OWN), styles={}))]
    assert results[0].shared.sha256 != results[1].shared.sha256


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"network": {"normalisation": "batch"}}, "set network.normalisation to group"),
        ({"options": OWN, "network": {"normalisation": "batch"}}, "set network.normalisation to group"),
        ({"network": {**GROUP, "architecture": "mmoe"}}, "set network.architecture to plain"),
        ({"training": {"added_images": "own"}}, "training.added_images to none"),
        ({"sat_digest": None}, "consistency on anchors needs a shared anchor task"),
        ({"options": {"consist": "noise"}}, "'noise' is not one of 'none', 'anchors', 'own'"),
    ],
)
def test_what_it_cannot_be_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        run_config("styled", **{"options": ANCHORS, "network": GROUP, **changes})
    assert said in str(caught.value)
    assert run_config("styled", sat_digest=None, options={"restyle_own": True}).shows_sat is False


def test_without_an_anchor_task_at_the_site_nothing_begins() -> None:
    with pytest.raises(ConfigError, match="bind this site's SAT bundle"):
        batch_of(ANCHORS, replace(site_data(), sat=None))
    assert batch_of(OWN, replace(site_data(), sat=None)).views is not None


def test_other_anchors_give_other_views_of_the_same_batch() -> None:
    one, other = batch_of(ANCHORS), batch_of(ANCHORS, replace(site_data(), sat=image_set(8, 5)))
    assert torch.equal(one.images, other.images)
    assert one.views is not None
    assert other.views is not None
    assert not torch.equal(one.views[0], other.views[0])
