import numpy as np
import pytest
import torch
from torch import Tensor

from hsl_model.photometric import photometric
from hsl_model.seeding import generator, torch_generator

KEY = (7, "clinic-a", 1, 3, "photometric primary")


def images(count: int = 6, size: int = 24, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, size, size + 8, generator=torch.Generator().manual_seed(0))


def test_the_stream_decides_and_nothing_else() -> None:
    torch.manual_seed(1)
    first = photometric(images(), 1.0, *KEY)
    torch.manual_seed(2)
    assert torch.equal(first, photometric(images(), 1.0, *KEY))
    assert not torch.equal(first, photometric(images(), 1.0, *KEY[:-1], "photometric sat"))


def test_images_stay_images() -> None:
    shown = photometric(images(32, channels=3), 2.0, *KEY)
    assert shown.shape == (32, 3, 24, 32)
    assert (shown.min().item(), shown.max().item()) == (0.0, 1.0)
    assert shown.dtype == torch.float32


def test_a_strength_of_nothing_changes_nothing() -> None:
    assert torch.allclose(photometric(images(), 0.0, *KEY), images(), atol=1e-6)


def test_no_image_reaches_another() -> None:
    changed = images()
    changed[3] = 0.0
    one, other = photometric(images(), 1.0, *KEY), photometric(changed, 1.0, *KEY)
    differing = [at for at in range(6) if not torch.equal(one[at], other[at])]
    assert differing == [3]


def test_the_tones_are_those_of_the_written_formula() -> None:
    """On flat images, which blur and contrast about the mean leave alone: gamma, brightness and noise are left."""
    flat = torch.full((8, 1, 64, 64), 0.4)
    draws = generator(*KEY).random((5, 8, 1, 1, 1)).reshape(5, 8)
    noise = torch.randn(flat.shape, generator=torch_generator(*KEY, "noise")).numpy()
    levels = 0.4 ** np.exp(0.5 * (2 * draws[1] - 1)) + 0.15 * (2 * draws[3] - 1)
    expected = np.clip(levels[:, None, None, None] + 0.05 * draws[4][:, None, None, None] * noise, 0, 1)
    assert photometric(flat, 1.0, *KEY).numpy() == pytest.approx(expected, abs=1e-5)
    assert np.ptp(levels) > 0.1


def test_a_point_is_blurred_to_a_gaussian_of_the_drawn_width() -> None:
    """The whole chain written out image by image, with the blur as a product of matrices."""
    size, strength = 65, 1.0
    point = torch.zeros(4, 1, size, size)
    point[:, :, 31:34, 31:34] = 1.0
    draws = torch.from_numpy(generator(*KEY).random((5, 4, 1, 1, 1))).float()
    noise = torch.randn(point.shape, generator=torch_generator(*KEY, "noise"))
    widths = strength * 0.02 * size * draws[0].flatten()
    places = torch.arange(size, dtype=torch.float32)
    for at, width in enumerate(widths.tolist()):
        kernel = torch.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
        kernel = kernel / kernel.sum(dim=1, keepdim=True)
        tones = (kernel @ point[at, 0] @ kernel.T).clamp(0, 1) ** torch.exp(0.5 * (2 * draws[1, at] - 1)).squeeze()
        shown = (tones - tones.mean()) * torch.exp(0.4 * (2 * draws[2, at] - 1)).squeeze() + tones.mean()
        noisy = shown + 0.15 * (2 * draws[3, at].squeeze() - 1) + 0.05 * draws[4, at].squeeze() * noise[at, 0]
        found = photometric(point, strength, *KEY)[at, 0]
        assert torch.allclose(found, noisy.clamp(0, 1), atol=2e-3), f"width {width}"
