import io
from collections.abc import Iterable
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hsl_data.decode import pixel_digest
from hsl_data.duplicates import (
    MAX_HASH_DISTANCE,
    DecodedCase,
    crossing_source_splits,
    drop_copies,
    find_groups,
    near_pairs,
    visual_hash,
)
from hsl_data.images import Pixels
from hsl_data.phantoms import phantom_site, site_images
from tests.hsl_data.helpers import picture


def case(name: str, pixels: str, label: int = 0, group: str | None = None, looks: bytes | None = None) -> DecodedCase:
    return DecodedCase(name, label, "c", group, None, None, 0, pixels, looks)


def looks(*bits: int) -> bytes:
    """A hash with these bits set."""
    flags = np.zeros(256, dtype=np.uint8)
    flags[list(bits)] = 1
    return np.packbits(flags).tobytes()


def distance(one: Pixels, other: Pixels) -> int:
    first, second = (np.frombuffer(visual_hash(pixels), dtype=np.uint8) for pixels in (one, other))
    return int(np.bitwise_count(first ^ second).sum())


def saved_as_jpeg(pixels: Pixels) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels[0]).save(file, "JPEG", quality=85)
    return np.asarray(Image.open(file))[None]


@pytest.mark.parametrize("size", [28, 64])
def test_saving_again_and_exposing_brighter_are_near_and_other_patients_are_far(size: int) -> None:
    bones = [pixels[None] for pixels, *_ in site_images(phantom_site(0, 3), 20, size, seed=1)]
    for pixels in bones:
        brighter = np.clip(pixels.astype(int) + 12, 0, 255).astype(np.uint8)
        assert distance(pixels, saved_as_jpeg(pixels)) <= MAX_HASH_DISTANCE
        assert distance(pixels, brighter) <= MAX_HASH_DISTANCE
    assert all(distance(one, other) > MAX_HASH_DISTANCE for one, other in combinations(bones, 2))


def test_colour_images_have_hashes_too() -> None:
    grey = picture(1)
    assert distance(grey[None], np.stack([grey] * 3)) == 0


def test_one_of_several_copies_is_kept_the_first_by_name() -> None:
    cases = [case("c", "same"), case("a", "same"), case("b", "same"), case("d", "other")]
    assert drop_copies(cases, frozenset()) == {2: "duplicate", 0: "duplicate"}


def test_copies_with_different_labels_are_all_dropped() -> None:
    cases = [case("a", "same", 0), case("b", "same", 1), case("c", "same", 1), case("d", "other", 1)]
    assert drop_copies(cases, frozenset()) == dict.fromkeys((0, 1, 2), "conflicting")


def test_images_of_the_sat_are_dropped_whatever_their_label() -> None:
    cases = [case("a", "same", 0), case("b", "same", 1), case("c", "other")]
    assert drop_copies(cases, {"same"}) == dict.fromkeys((0, 1), "in_sat")


def test_a_patient_is_one_group_and_looks_do_not_count_where_patients_are_known() -> None:
    cases = [case("a", "1", group="P"), case("b", "2", group="P"), case("c", "3", group="Q")]
    assert find_groups(cases) == ["patient:P", "patient:P", "patient:Q"]


def test_looks_join_images_of_unknown_patients_in_chains() -> None:
    near, far = range(MAX_HASH_DISTANCE), range(MAX_HASH_DISTANCE + 1)
    cases = [
        case("d", "1", looks=looks()),
        case("b", "2", looks=looks(*near)),
        case("a", "3", looks=looks(*near, *range(100, 100 + MAX_HASH_DISTANCE))),
        case("c", "4", looks=looks(*(200 + bit for bit in far))),
        case("e", "5", looks=looks()),
    ]
    assert find_groups(cases) == ["image:a", "image:a", "image:a", "image:c", "image:a"]


def test_equal_pixels_join_patients() -> None:
    cases = [case("a", "same", group="Q"), case("b", "same", group="P"), case("c", "other", group="Q")]
    assert find_groups(cases) == ["patient:P"] * 3


def test_groups_do_not_depend_on_the_order_of_files() -> None:
    cases = [
        case("a", "1", looks=looks()),
        case("b", "1", looks=looks(1)),
        case("c", "2", looks=looks(1, 2)),
        case("d", "3", group="P"),
        case("e", "3", group="Q"),
    ]
    expected = dict(zip("abcde", find_groups(cases), strict=True))
    for order in permutations(cases):
        assert dict(zip((each.name for each in order), find_groups(order), strict=True)) == expected


@given(st.lists(st.lists(st.integers(0, 255), max_size=40), max_size=12))
def test_near_pairs_are_those_of_the_obvious_loop(all_bits: list[list[int]]) -> None:
    hashes = [looks(*bits) for bits in all_bits]

    def differing(first: bytes, second: bytes) -> int:
        return sum((x ^ y).bit_count() for x, y in zip(first, second, strict=True))

    expected = [
        (i, j) for i, j in combinations(range(len(hashes)), 2) if differing(hashes[i], hashes[j]) <= MAX_HASH_DISTANCE
    ]
    assert list(near_pairs(hashes)) == expected


def test_leaks_of_a_published_split_are_counted() -> None:
    def published(parts: Iterable[str | None]) -> list[DecodedCase]:
        return [DecodedCase(str(i), 0, "c", None, None, part, i, str(i), None) for i, part in enumerate(parts)]

    cases = published(["train", "test", "train", "train", None, None])
    assert crossing_source_splits(cases, ["g", "g", "h", "h", "h", "i"]) == 2


def test_the_pixel_digest_is_of_the_pixels() -> None:
    assert pixel_digest(picture(1)) == pixel_digest(picture(1).copy())
    assert pixel_digest(picture(1)) != pixel_digest(picture(2))
