"""Features of the nodes: the numbers on clouds whose truth is known, the table and the picture on made-up cells."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest

from hsl_study.feature_views import features_table, tsne_figure
from hsl_study.projections import mmd, node_accuracy, reduced, tsne
from hsl_study.report import html_report
from hsl_study.results import Results
from tests.hsl_study.made_results import NODES, better_by, config, fill

IMAGES = 40
NODE = np.repeat([0, 1, 2], IMAGES)


def cloud(shift: float) -> np.ndarray:
    """Three nodes' features (120, 20), each shifted along an axis of its own."""
    random = np.random.default_rng(3)
    features = random.normal(0, 1, (len(NODE), 20)).astype(np.float32)
    features[np.arange(len(NODE)), NODE] += shift
    return features


def test_features_of_one_distribution_give_no_node_away() -> None:
    space = reduced(cloud(0.0))
    assert node_accuracy(space, NODE) == pytest.approx(1 / 3, abs=0.12)
    far = reduced(cloud(8.0))
    assert node_accuracy(far, NODE) == 1.0
    near_mmd, far_mmd = mmd(space, NODE), mmd(far, NODE)
    assert near_mmd is not None
    assert far_mmd is not None
    assert 0 <= near_mmd < 0.2 < 0.5 < far_mmd


def test_the_number_of_a_node_s_images_does_not_move_chance() -> None:
    uneven = np.repeat([0, 1, 2], [90, 20, 10])
    assert node_accuracy(reduced(cloud(0.0)), uneven) == pytest.approx(1 / 3, abs=0.15)


def test_mmd_by_hand() -> None:
    """Four points on a line, two a node: every kernel value is exp(-d² / median d²)."""
    points, nodes = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 1])
    width = np.median([1.0, 9.0, 16.0, 4.0, 9.0, 1.0])
    within = (2 + 2 * np.exp(-1 / width)) / 4
    between = (2 * np.exp(-9 / width) + np.exp(-16 / width) + np.exp(-4 / width)) / 4
    assert mmd(points, nodes) == pytest.approx(np.sqrt(2 * within - 2 * between))


def test_what_cannot_be_said_is_none() -> None:
    assert node_accuracy(np.zeros((4, 2)), np.array([0, 0, 1, 1])) is None
    assert mmd(np.zeros((4, 2)), np.array([0, 0, 1, 1])) is None
    assert mmd(np.eye(4), np.zeros(4, int)) is None
    assert tsne(np.eye(4)) is None


def test_components_do_not_depend_on_the_unit_of_the_features() -> None:
    assert np.abs(reduced(cloud(1.0))) == pytest.approx(np.abs(reduced(1000 * cloud(1.0))), abs=1e-4)


@pytest.fixture
def featured(tmp_path: Path) -> Results:
    """`hsl` brings the nodes together, `local` does not; `swarm` kept nothing."""
    study = config(seeds=[0, 1])
    after = {"hsl": 0.0, "local": 6.0}
    node = np.repeat([0, 1], 20)

    def side(key: tuple[str, str, int]) -> bytes | None:
        if key[1] not in after:
            return None
        random = np.random.default_rng(key[2])
        file = io.BytesIO()
        clouds = {
            when: random.normal(0, 1, (40, 6)) + shift * node[:, None]
            for when, shift in (("before", 6.0), ("after", after[key[1]]))
        }
        np.savez(file, nodes=np.array(NODES), node=node, label=np.tile([0, 1], 20), **clouds)
        return file.getvalue()

    return fill(tmp_path, study, better_by({}), features=side)


def test_the_table_and_the_picture_of_before_and_after(featured: Results) -> None:
    table = features_table(featured, "given")
    assert table is not None
    assert "chance 0.500" in table.columns[2]
    lines = {row[0]: row for row in table.rows}
    assert set(lines) == {"hsl", "local"}
    assert lines["local"][2:4] == ("1.000 ± 0.000", "1.000 ± 0.000")
    assert float(lines["hsl"][3][:5]) < 0.75
    figure = tsne_figure(featured, "given")
    assert figure is not None
    assert [axes.get_title().split(" training")[0] for axes in figure.axes] == [
        "hsl, before", "hsl, after", "local, before", "local, after",
    ]  # fmt: skip
    assert all("node classifier" in axes.get_title() for axes in figure.axes)
    assert "t-SNE" in html_report(featured)


def test_an_altered_file_is_left_out(featured: Results) -> None:
    path = featured.folder.features(("given", "hsl", 0))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == featured.rows["given", "hsl", 0].features_sha256
    path.write_bytes(b"")
    assert [seed for seed, _ in featured.features("given", "hsl")] == [1]
    assert list(featured.features("given", "swarm")) == []
