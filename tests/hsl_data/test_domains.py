from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsl_data.domains import DomainSites, split_npz_by_domain
from hsl_data.errors import SourceError
from hsl_data.readers.npz import NpzContent, read_npz
from tests.hsl_data.helpers import picture, write_archive

NUM = 400


def source(path: Path, **changes: Any) -> Path:
    """400 images in four domains (160, 120, 100, 20), two of each patient, every third patient positive."""
    domain = np.repeat(np.arange(4), (160, 120, 100, 20)).astype(np.uint8)
    return write_archive(
        path / "source.npz",
        NUM,
        **{
            "domain": domain,
            "domain_names": np.array(["hand", "leg", "wrist", "hip"]),
            "group": np.arange(NUM) // 2,
            "labels": (np.arange(NUM) // 2 % 3 == 0).astype(np.uint8),
            **changes,
        },
    )


def split(tmp_path: Path, num_sites: int, seed: int = 0, **changes: Any) -> tuple[DomainSites, list[NpzContent]]:
    found = split_npz_by_domain(source(tmp_path, **changes), tmp_path / "sites", num_sites, seed)
    return found, [read_npz(path) for path in found.paths]


@pytest.mark.parametrize("num_sites", [1, 2, 3, 5])
def test_no_image_and_no_patient_is_at_two_sites(tmp_path: Path, num_sites: int) -> None:
    found, contents = split(tmp_path, num_sites)
    assert [path.name for path in found.paths] == [f"site-{i + 1}.npz" for i in range(num_sites)]
    for values in ([set(content.names) for content in contents], [set(content.groups) for content in contents]):
        assert sum(map(len, values)) == len(set().union(*values))
    assert sum(map(len, contents)) + found.num_left_out == NUM
    for content in contents:
        for row, name in enumerate(content.names):
            number = int(name[4:])
            assert np.array_equal(content.images[row], picture(number))
            assert content.labels[row] == ("pos" if number // 2 % 3 == 0 else "neg")


def test_sites_get_other_domains_and_another_label_mix(tmp_path: Path) -> None:
    found, contents = split(tmp_path, 3)
    held = [set(content.domains) for content in contents]
    assert held == [{"hand"}, {"leg"}, {"wrist", "hip"}]
    shares = sorted(site.num_positive / (site.num_positive + site.num_negative) for site in found.sites)
    assert shares == pytest.approx([0.2, 0.35, 0.5], abs=0.03)
    assert all(len(content) >= 20 for content in contents)


def test_the_table_can_be_printed(tmp_path: Path) -> None:
    found, contents = split(tmp_path, 2)
    table = found.lines()
    assert len(table) == 4
    assert table[0].split() == ["site", "pos", "neg", "share", "domains"]
    assert f"hand {contents[0].domains.count('hand')}, hip {contents[0].domains.count('hip')}" in table[1]
    assert str(found.num_left_out) in table[3]


def test_a_domain_with_one_class_is_left_out(tmp_path: Path) -> None:
    labels = (np.arange(NUM) // 2 % 3 == 0).astype(np.uint8)
    labels[160:280] = 1
    _, contents = split(tmp_path, 2, labels=labels)
    assert all("leg" not in content.domains for content in contents)


def test_a_patient_seen_in_two_domains_stays_where_most_images_are(tmp_path: Path) -> None:
    group = np.arange(NUM)
    group[[0, 1, 200]] = 1000  # two hands and a leg
    _, contents = split(tmp_path, 2, group=group)
    names = [set(content.names) for content in contents]
    assert not any("img-0200" in held for held in names)
    assert all("1000" not in content.groups for content in contents if "leg" in content.domains)


def test_images_that_look_alike_stay_at_one_site_where_patients_are_unknown(tmp_path: Path) -> None:
    images = np.stack([picture(i) for i in range(NUM)])
    images[200:320] = images[0:120]
    images[200:320, 0, 0] ^= 1
    _, (first, second) = split(tmp_path, 2, images=images, group=None)
    numbers = [{int(name[4:]) for name in content.names} for content in (first, second)]
    assert not {number + 200 for number in numbers[0] if number < 120} & numbers[1]


def test_equal_seeds_give_equal_bytes(tmp_path: Path) -> None:
    path = source(tmp_path)
    written = [
        [site.read_bytes() for site in split_npz_by_domain(path, tmp_path / name, 3, seed).paths]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert written[0] == written[1]
    assert written[0] != written[2]


def test_an_archive_without_domains_is_divided_too(tmp_path: Path) -> None:
    _, contents = split(tmp_path, 3, domain=None, domain_names=None)
    assert [set(content.domains) for content in contents] == [{None}] * 3
    assert len({name for content in contents for name in content.names}) == sum(map(len, contents))


@pytest.mark.parametrize(
    ("num_sites", "changes", "said"),
    [
        (
            2,
            {"labels": np.arange(NUM) % 3, "label_names": np.array(["a", "b", "c"])},
            "with two classes; it has a, b, c",
        ),
        (40, {}, "fewer than 10 images of a class; ask for fewer sites"),
        (2, {"labels": np.zeros(NUM, dtype=np.uint8)}, "fewer than 10 images of a class"),
        (2, {"group": np.zeros(NUM, dtype=np.uint8)}, "fewer than 10 images of a class"),
    ],
)
def test_what_cannot_be_split_says_why(tmp_path: Path, num_sites: int, changes: Any, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        split(tmp_path, num_sites, **changes)
