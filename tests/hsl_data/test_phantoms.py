from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hsl_data.phantoms import (
    CLASSES,
    lesion,
    phantom_site,
    site_images,
    write_phantom_sat,
    write_phantom_sites,
)
from hsl_data.readers.npz import read_npz
from hsl_data.sat import load_sat
from tests.hsl_data.helpers import TASK, bind, prepare

SIZE = 32


def bones(index: int, num: int = 300, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    images, fractured, *_ = zip(*site_images(phantom_site(index, 3), num, SIZE, seed), strict=True)
    return np.stack(images) / 255, np.array(fractured)


def sideways_edges(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Edges across the long axis, row by row in sorted order: a step or an oblique gap in the shaft stands out."""
    edges = np.abs(np.diff(images, axis=1))[:, 6:-6]
    return np.sort(np.concatenate([edges.max(axis=2), edges.mean(axis=2)], axis=1), axis=1)


def test_sites_are_archives_that_a_site_can_bind(tmp_path: Path) -> None:
    paths = write_phantom_sites(tmp_path, 3, 40, SIZE, seed=0)
    assert [path.name for path in paths] == ["site-1.npz", "site-2.npz", "site-3.npz"]
    task = TASK.model_copy(update={"height": SIZE, "width": SIZE})
    for path in paths:
        binding = bind(path, classes={"fractured": "broken", "intact": "whole"})
        report = prepare(binding, tmp_path / "cache", task).report
        assert (report.num_found, report.num_used) == (40, 40)
        assert report.num_patients_known == 40
        assert report.num_groups < 40, "some patients have two views"
        assert len(report.domains) == 2


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    first, again, other = (
        [path.read_bytes() for path in write_phantom_sites(tmp_path / name, 2, 8, 16, seed)]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert not set(first) & set(other)
    digests = [write_phantom_sat(tmp_path / name, 4, 16, seed).digest for name, seed in (("d", 0), ("e", 0), ("f", 1))]
    assert digests[0] == digests[1] != digests[2]


def test_more_cases_begin_with_the_same_ones() -> None:
    few = [pixels for pixels, *_ in site_images(phantom_site(0, 3), 7, 16, 0)]
    many = [pixels for pixels, *_ in site_images(phantom_site(0, 3), 12, 16, 0)]
    assert all(np.array_equal(one, other) for one, other in zip(few, many, strict=False))


def test_sites_differ_in_exposure_regions_and_share_of_fractures(tmp_path: Path) -> None:
    contents = [read_npz(path) for path in write_phantom_sites(tmp_path, 3, 200, 16, seed=0)]
    shares = [content.labels.count(CLASSES[1]) / 200 for content in contents]
    assert max(shares) - min(shares) > 0.2
    assert len({frozenset(content.domains) for content in contents}) == 3
    brightness = [content.images.mean() for content in contents]
    assert max(brightness) > 1.2 * min(brightness)
    assert not {name for content in contents for name in content.names[:1]} & set(contents[0].names[1:])
    assert all(len(set(content.names)) == 200 for content in contents)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_brightness_and_contrast_do_not_give_the_label_away(index: int) -> None:
    images, fractured = bones(index, 600)
    for statistic in (images.mean(axis=(1, 2)), images.std(axis=(1, 2)), images.min(axis=(1, 2))):
        assert 0.38 < roc_auc_score(fractured, statistic) < 0.62


@pytest.mark.parametrize("index", [0, 1, 2])
def test_fractures_can_be_learned_from_shape(index: int) -> None:
    images, fractured = bones(index, 600)
    features = sideways_edges(images)
    features = (features - features[:400].mean(axis=0)) / features[:400].std(axis=0)
    model = LogisticRegression(max_iter=500, C=0.1).fit(features[:400], fractured[:400])
    assert 0.6 < roc_auc_score(fractured[400:], model.predict_proba(features[400:])[:, 1]) < 0.97


def test_lesions_differ_in_outline_and_not_in_brightness() -> None:
    labels = np.arange(200) % 2
    images = np.stack([lesion(bool(label), SIZE, np.random.default_rng((5, i))) for i, label in enumerate(labels)])
    assert 0.3 < roc_auc_score(labels, images.mean(axis=(1, 2))) < 0.7
    coarse = np.stack([np.asarray(Image.fromarray(image).resize((10, 10), Image.Resampling.BOX)) for image in images])
    dark = coarse <= np.quantile(coarse, 0.12, axis=(1, 2), keepdims=True)
    taller_than_wide = dark.any(axis=2).sum(axis=1) / dark.any(axis=1).sum(axis=1)
    assert roc_auc_score(labels, taller_than_wide) > 0.8


def test_the_sat_is_balanced_and_looks_unlike_bones(tmp_path: Path) -> None:
    facts = write_phantom_sat(tmp_path / "sat.safetensors", 6, SIZE, seed=0, channels=3)
    sat = load_sat(facts.path, facts.digest)
    assert sat.images.shape == (12, 3, SIZE, SIZE)
    assert sat.labels.tolist() == [0, 1] * 6
    assert (sat.images[:, 0] == sat.images[:, 2]).all()
