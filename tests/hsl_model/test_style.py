"""Styles of sites, and images shown in them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from hsl_model.data import ImageSet
from hsl_model.protocol.manifest import SiteStyle
from hsl_model.style import Restyler, style_of
from hsl_study.acquisition import BUILT_IN, stored

KEY = (7, "clinic-a", 1, 3, "style noise primary")


def films(count: int = 40, size: int = 28, channels: int = 1, positive_share: float = 0.5) -> ImageSet:
    """Smooth shapes, positive ones brighter."""
    random = np.random.default_rng(3)
    shapes = ndimage.gaussian_filter(random.random((count, channels, size, size)), sigma=(0, 0, 1.5, 1.5))
    shapes = np.clip(0.5 + (shapes - shapes.mean()) / (4.0 * shapes.std()), 0.0, 1.0)
    labels = (np.arange(count) < positive_share * count).astype(np.uint8)
    return ImageSet(np.rint(150 * shapes + 60 * labels[:, None, None, None]).astype(np.uint8), labels)


def kept_by(machine: str, cases: ImageSet) -> ImageSet:
    names = [str(at) for at in range(len(cases))]
    return replace(cases, images=stored(BUILT_IN[machine], machine, cases.images, names))


def shown_as(cases: ImageSet, style: SiteStyle) -> ImageSet:
    images = torch.from_numpy(cases.images) / 255.0
    shown = Restyler(cases, [style], "cpu").show(images, np.zeros(len(cases), dtype=np.int64), *KEY)
    return replace(cases, images=(255.0 * shown).round().to(torch.uint8).numpy())


def gap(one: SiteStyle, other: SiteStyle) -> float:
    return float(np.abs(np.array(one.quantiles) - other.quantiles).mean())


def test_a_style_by_hand() -> None:
    """Two flat images of one class, one of the other: the classes weigh the same. Nothing to see is not blurred."""
    levels = np.array([0, 51, 255], dtype=np.uint8).reshape(3, 1, 1, 1)
    style = style_of(ImageSet(np.broadcast_to(levels, (3, 1, 8, 8)).copy(), np.array([0, 0, 1], dtype=np.uint8)))
    assert style.quantiles == (0.55,) * 33
    assert (style.noise, style.sharpness) == (0.0, 1.0)


def test_noise_is_estimated_in_the_stored_range_and_a_ramp_has_sharpness_one_half() -> None:
    ramp = np.broadcast_to(4 * np.arange(56), (20, 1, 56, 56))
    quiet = style_of(ImageSet(ramp.astype(np.uint8), np.zeros(20, dtype=np.uint8)))
    assert (quiet.noise, quiet.sharpness) == (0.0, 0.5)
    noisy = ramp * 0.5 + 60 + np.random.default_rng(1).normal(0.0, 10.0, ramp.shape)
    style = style_of(ImageSet(np.rint(noisy).astype(np.uint8), np.zeros(20, dtype=np.uint8)))
    assert style.noise == pytest.approx(10 / 255, rel=0.05)


def test_a_style_is_of_bounded_size_rises_and_does_not_follow_prevalence() -> None:
    style = style_of(films())
    assert list(style.quantiles) == sorted(style.quantiles)
    assert (len(style.quantiles), len(SiteStyle.model_fields)) == (33, 3)
    assert all(value == round(value, 4) for value in (*style.quantiles, style.noise, style.sharpness))
    rare = style_of(films(positive_share=0.2))
    plain = style_of(replace(films(positive_share=0.2), labels=np.zeros(40, dtype=np.uint8)))
    assert gap(style, rare) < 0.2 * gap(style, plain)


def test_impossible_styles_cannot_be_said() -> None:
    told = style_of(films()).model_dump()
    for change in ({"quantiles": told["quantiles"][::-1]}, {"quantiles": [0.5] * 32}, {"noise": 1.5}, {"patient": 1}):
        with pytest.raises(ValidationError):
            SiteStyle.model_validate({**told, **change})


def test_in_its_own_style_an_image_stays_as_it_is() -> None:
    for machine in BUILT_IN:
        cases = kept_by(machine, films())
        assert np.array_equal(shown_as(cases, style_of(cases)).images, cases.images), machine


@pytest.mark.parametrize("machine", ["bright", "dark", "soft", "hard"])
def test_in_another_style_images_have_that_sites_numbers(machine: str) -> None:
    own, other = kept_by("reference", films()), style_of(kept_by(machine, films()))
    shown = style_of(shown_as(own, other))
    assert gap(shown, other) < 0.3 * gap(style_of(own), other)
    assert shown.noise == pytest.approx(other.noise, rel=0.25)
    if other.sharpness < style_of(own).sharpness:
        assert shown.sharpness == pytest.approx(other.sharpness, abs=0.03)


def test_each_image_gets_the_style_it_is_drawn_and_only_the_stream_decides_its_noise() -> None:
    cases = kept_by("reference", films(channels=3))
    restyler = Restyler(cases, [style_of(kept_by(machine, films())) for machine in ("dark", "hard")], "cpu")
    images = torch.from_numpy(cases.images[:4]) / 255.0
    which = np.array([0, 1, 0, 1])
    torch.manual_seed(1)
    first = restyler.show(images, which, *KEY)
    torch.manual_seed(2)
    assert torch.equal(first, restyler.show(images, which, *KEY))
    assert not torch.equal(first, restyler.show(images, which, *KEY[:-1], "style noise view 1"))
    assert torch.equal(first[::2], restyler.show(images, np.zeros_like(which), *KEY)[::2])
    assert not torch.equal(first[1], restyler.show(images, np.zeros_like(which), *KEY)[1])
    assert (first.min().item() >= 0.0, first.max().item() <= 1.0, first.shape) == (True, True, images.shape)
