from dataclasses import replace

import numpy as np
import pytest
import torch

from hsl_model import batches
from hsl_model.batches import PairLoader
from hsl_model.data import ImageSet
from hsl_model.network import choose_anchors
from hsl_model.protocol.errors import ConfigError
from tests.hsl_model.engine_helpers import ARMS, arm_config, image_set, run_config, site_data, spec_of


def test_the_primary_batches_are_the_same_for_every_method() -> None:
    """Otherwise nothing could be concluded from a comparison."""
    data = site_data()
    loaders = [PairLoader(spec_of(arm_config(arm)), data, "cpu") for arm in ARMS]
    assert {loader.steps_per_epoch for loader in loaders} == {3}
    for epoch, step in [(0, 0), (0, 2), (1, 1)]:
        batches = [loader.batch(epoch, step) for loader in loaders]
        assert all(torch.equal(batch.images, batches[0].images) for batch in batches)
        assert all(torch.equal(batch.labels, batches[0].labels) for batch in batches)


def test_only_the_mmoe_network_is_given_the_shared_anchor_task() -> None:
    data = site_data()
    plain = PairLoader(spec_of(run_config("swarm")), data, "cpu").batch(0, 0)
    mmoe = PairLoader(spec_of(run_config("hsl")), data, "cpu").batch(0, 0)
    assert plain.sat_images is None
    assert plain.sat_labels is None
    assert mmoe.sat_images is not None
    assert mmoe.sat_images.shape == mmoe.images.shape == (4, 1, 16, 16)


RELATIVE = {"architecture": "relative", "normalisation": "group"}


def test_the_relative_network_is_given_the_same_anchors_at_every_step_as_they_are_stored() -> None:
    """At other nodes as well, whatever augmentation does; a micro-batch sees all of them."""
    data = site_data()
    config = run_config("swarm", network=RELATIVE, training={"photometric": 1.0})
    loaders = [PairLoader(spec_of(config, node_id=node), data, "cpu") for node in ("clinic-a", "clinic-b")]
    found = [loader.batch(epoch, step) for loader in loaders for epoch, step in ((0, 0), (1, 2))]
    assert data.sat is not None
    chosen = choose_anchors(data.sat.labels, 4, config.seed)
    for batch in found:
        assert batch.sat_images is not None
        stored = np.rint(((batch.sat_images * 0.226 + 0.449) * 255.0).numpy()).astype(np.uint8)
        assert np.array_equal(stored, data.sat.images[chosen])
        assert batch.sat_labels is None
    part = found[0].part(slice(1, 3))
    assert len(part) == 2
    assert part.sat_images is not None
    assert torch.equal(part.sat_images, found[0].sat_images)


SAME_TASK = {"sat_task_id": "fracture", "network": {"normalisation": "group"}}


@pytest.mark.parametrize(("added", "stream"), [("sat", "sat"), ("own", "added")])
def test_added_images_stand_behind_primary_batches_that_they_leave_alone(added: str, stream: str) -> None:
    data = site_data()
    plain = PairLoader(spec_of(run_config("swarm")), data, "cpu")
    both = PairLoader(spec_of(run_config("swarm", training={"added_images": added}, **SAME_TASK)), data, "cpu")
    assert both.steps_per_epoch == plain.steps_per_epoch
    for epoch, step, size in [(0, 0, 4), (0, 2, 2), (1, 1, 4)]:
        alone, batch = plain.batch(epoch, step), both.batch(epoch, step)
        assert len(batch) == 2 * len(alone) == 2 * size
        assert batch.sat_images is None
        assert torch.equal(batch.images[:size], alone.images)
        assert torch.equal(batch.labels[:size], alone.labels)
        assert not torch.equal(batch.images[size:], alone.images)
    mmoe = PairLoader(spec_of(run_config("hsl")), data, "cpu").batch(0, 0)
    same = mmoe.sat_images is not None and torch.equal(both.batch(0, 0).images[4:], mmoe.sat_images)
    assert same == (stream == "sat"), "added SAT images are those that HSL is shown"


def test_added_own_images_are_the_sites_and_balanced() -> None:
    data = site_data(num_training=400, positive_share=0.1)
    large = {"images_per_epoch": 400, "batch_size": 400, "added_images": "own", "augment": False}
    batch = PairLoader(spec_of(run_config("swarm", training=large)), data, "cpu").batch(0, 0)
    assert batch.labels[400:].mean() == pytest.approx(0.5, abs=0.075)
    stored = {image.tobytes() for image in data.training.images}
    back = (batch.images[400:] * 0.226 + 0.449) * 255.0
    assert {np.rint(image.numpy()).astype(np.uint8).tobytes() for image in back} <= stored


def test_photometric_augmentation_is_a_setting_and_leaves_rotations_and_flips_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, turned = site_data(), []
    whole = batches.augment
    monkeypatch.setattr(batches, "augment", lambda *given: turned.append(whole(*given)) or turned[-1])
    plain = PairLoader(spec_of(run_config("hsl")), data, "cpu").batch(0, 1)
    shown = PairLoader(spec_of(run_config("hsl", training={"photometric": 1.0})), data, "cpu").batch(0, 1)
    assert all(torch.equal(first, second) for first, second in zip(turned[:2], turned[2:], strict=True))
    assert torch.equal(plain.labels, shown.labels)
    assert not torch.equal(plain.images, shown.images)
    assert plain.sat_images is not None
    assert shown.sat_images is not None
    assert not torch.equal(plain.sat_images, shown.sat_images)


def test_a_batch_can_be_made_at_any_time_in_any_order() -> None:
    data, spec = site_data(), spec_of(run_config("hsl"))
    straight = [PairLoader(spec, data, "cpu").batch(epoch, step) for epoch in range(2) for step in range(3)]
    loader = PairLoader(spec, data, "cpu")
    for place in (5, 0, 3, 1, 4, 2):
        batch = loader.batch(place // 3, place % 3)
        assert torch.equal(batch.images, straight[place].images)
        assert batch.sat_images is not None
        assert torch.equal(batch.sat_images, straight[place].sat_images)


def test_epochs_rounds_nodes_and_seeds_differ() -> None:
    data = site_data()
    config = run_config("fedavg")
    first = PairLoader(spec_of(config), data, "cpu").batch(0, 0).images
    others = [
        PairLoader(spec_of(config), data, "cpu").batch(1, 0).images,
        PairLoader(spec_of(config, round_number=2), data, "cpu").batch(0, 0).images,
        PairLoader(spec_of(config, node_id="clinic-b"), data, "cpu").batch(0, 0).images,
        PairLoader(spec_of(run_config("fedavg", seed=8)), data, "cpu").batch(0, 0).images,
    ]
    assert all(not torch.equal(first, other) for other in others)


def test_the_two_tasks_draw_order_and_augmentation_from_streams_of_their_own() -> None:
    """With the same images in both sets, common streams would show the same batch twice."""
    cases = image_set(10, 1)
    data = replace(site_data(), training=cases, sat=cases)
    alike = {"balanced_sampler": False, "batch_size": 10}
    ordered = PairLoader(spec_of(run_config("hsl", training={**alike, "augment": False})), data, "cpu").batch(0, 0)
    assert ordered.sat_images is not None
    assert not torch.equal(ordered.images, ordered.sat_images)
    one = ImageSet(cases.images[:1].repeat(10, axis=0), cases.labels)
    turned = PairLoader(spec_of(run_config("hsl", training=alike)), replace(data, training=one, sat=one), "cpu")
    batch = turned.batch(0, 0)
    assert batch.sat_images is not None
    assert not torch.equal(batch.images, batch.sat_images)


def test_the_last_batch_holds_the_rest_and_a_rest_of_one_is_dropped() -> None:
    data = site_data()
    loader = PairLoader(spec_of(run_config("fedavg")), data, "cpu")
    assert [len(loader.batch(0, step)) for step in range(loader.steps_per_epoch)] == [4, 4, 2]
    nine = PairLoader(spec_of(run_config("fedavg", training={"images_per_epoch": 9})), data, "cpu")
    assert [len(nine.batch(0, step)) for step in range(nine.steps_per_epoch)] == [4, 4]


def test_without_a_setting_the_longer_set_gives_the_length() -> None:
    config = run_config("hsl", training={"images_per_epoch": None})
    data = replace(site_data(num_training=5), sat=image_set(11, 3))
    loader = PairLoader(spec_of(config), data, "cpu")
    assert [len(loader.batch(0, step)) for step in range(loader.steps_per_epoch)] == [4, 4, 3]
    labels = torch.cat([loader.batch(0, step).sat_labels for step in range(3)])  # type: ignore[misc]
    assert labels.sum() == data.sat.labels.sum()  # each SAT case once: 11 places for 11 cases


@pytest.mark.parametrize("balanced", [True, False])
def test_balancing_is_a_setting_and_never_touches_the_shared_anchor_task(balanced: bool) -> None:
    config = run_config("hsl", training={"images_per_epoch": 400, "batch_size": 400, "balanced_sampler": balanced})
    data = replace(site_data(num_training=400, positive_share=0.1), sat=image_set(400, 3, positive_share=0.1))
    batch = PairLoader(spec_of(config), data, "cpu").batch(0, 0)
    assert batch.sat_labels is not None
    assert batch.sat_labels.mean() == pytest.approx(0.1)
    assert batch.labels.mean() == pytest.approx(0.5 if balanced else 0.1, abs=0.075 if balanced else 1e-6)


def test_augmentation_is_a_setting() -> None:
    data = site_data()
    plain = PairLoader(spec_of(run_config("fedavg", training={"augment": False})), data, "cpu").batch(0, 0)
    turned = PairLoader(spec_of(run_config("fedavg")), data, "cpu").batch(0, 0)
    assert torch.equal(plain.labels, turned.labels)
    assert not torch.equal(plain.images, turned.images)
    stored = {image.tobytes() for image in data.training.images}
    back = (plain.images * 0.226 + 0.449) * 255.0
    assert {np.rint(image.numpy()).astype(np.uint8).tobytes() for image in back} <= stored


def test_a_part_is_a_slice_of_everything() -> None:
    batch = PairLoader(spec_of(run_config("hsl")), site_data(), "cpu").batch(0, 0)
    part = batch.part(slice(1, 3))
    assert len(part) == 2
    assert batch.sat_images is not None
    assert part.sat_images is not None
    assert torch.equal(part.sat_images, batch.sat_images[1:3])


@pytest.mark.parametrize("name", ["training", "validation", "test", "sat"])
def test_images_that_are_not_of_the_task_are_refused(name: str) -> None:
    data = replace(site_data(), **{name: image_set(6, 1, size=17)})
    with pytest.raises(ConfigError, match=r"\(1, 17, 17\); the task says \(1, 16, 16\)"):
        PairLoader(spec_of(run_config("fedavg")), data, "cpu")


def test_the_mmoe_network_needs_the_shared_anchor_task() -> None:
    with pytest.raises(ConfigError, match="shared anchor task"):
        PairLoader(spec_of(run_config("hsl")), replace(site_data(), sat=None), "cpu")
    too_few = replace(site_data(), sat=image_set(8, 99, positive_share=0.125))
    with pytest.raises(ConfigError, match="1 images of class 1, but 2 anchors"):  # before training, not after an epoch
        PairLoader(spec_of(run_config("hsl")), too_few, "cpu")
    relative = spec_of(run_config("swarm", network=RELATIVE))
    with pytest.raises(ConfigError, match="bind this site's SAT bundle"):
        PairLoader(relative, replace(site_data(), sat=None), "cpu")
    with pytest.raises(ConfigError, match="build a larger SAT"):
        PairLoader(relative, too_few, "cpu")
