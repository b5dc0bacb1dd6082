import math

import numpy as np
import pytest
import torch

from hsl_model.augment import MAX_ROTATION_DEGREES, augment, normalise, to_unit
from hsl_model.seeding import generator


def drawn(num_images: int, *key: str | int) -> tuple[np.ndarray, np.ndarray]:
    random = generator(*key)
    angles = random.uniform(-MAX_ROTATION_DEGREES, MAX_ROTATION_DEGREES, num_images)
    return angles, random.integers(0, 2, num_images)


def test_bytes_become_zero_mean_and_unit_spread() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert to_unit(images).flatten().tolist() == [0.0, 1.0]
    assert normalise(to_unit(images)).flatten().tolist() == pytest.approx([-0.449 / 0.226, 0.551 / 0.226])
    colour = normalise(torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
    assert colour.abs().max() == 0.0


def test_the_stream_decides_and_nothing_else() -> None:
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    first = augment(images, "key", 1)
    torch.manual_seed(2)
    assert torch.equal(first, augment(images, "key", 1))
    assert not torch.equal(first, augment(images, "key", 2))


def test_a_flip_mirrors_left_and_right() -> None:
    """On a ramp from left to right; small rotations do not change which side is brighter."""
    ramp = torch.linspace(0, 1, 33).repeat(33, 1).view(1, 1, 33, 33).repeat(8, 1, 1, 1)
    _, flips = drawn(8, "flip")
    assert 0 < flips.sum() < 8
    middle = augment(ramp, "flip")[:, 0, 16, :]
    falls = middle[:, 20] < middle[:, 12]
    assert falls.tolist() == [bool(flip) for flip in flips]


@pytest.mark.parametrize(("height", "width"), [(65, 65), (65, 129), (129, 65)])
def test_rotation_is_rigid_and_by_the_drawn_angle_on_oblong_images(height: int, width: int) -> None:
    """A dot at (dx, dy) from the centre lands where the rotation matrix says, in pixels."""
    images = torch.zeros(6, 1, height, width)
    dx, dy = 20, 10
    images[:, 0, height // 2 + dy - 1 : height // 2 + dy + 2, width // 2 + dx - 1 : width // 2 + dx + 2] = 1.0
    angles, flips = drawn(6, "dot")
    turned = augment(images, "dot")[:, 0]
    for image, degrees, flip in zip(turned, angles, flips, strict=True):
        rows, columns = torch.meshgrid(
            torch.arange(height) - height // 2, torch.arange(width) - width // 2, indexing="ij"
        )
        found_x = float((image * columns).sum() / image.sum())
        found_y = float((image * rows).sum() / image.sum())
        # the grid maps output to input: the dot's output place is the inverse rotation of (dx, dy), then the flip
        angle = math.radians(degrees)
        x = math.cos(angle) * dx + math.sin(angle) * dy
        y = -math.sin(angle) * dx + math.cos(angle) * dy
        assert (found_x, found_y) == pytest.approx((-x if flip else x, y), abs=0.15)
