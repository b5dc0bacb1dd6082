"""The demo's images: prepared once, shared out by domain, bound so that an agent reads them."""

from pathlib import Path

import numpy as np
import pytest

from hsl_cli.demo.images import prepare_images
from hsl_cli.demo.options import DemoOptions
from hsl_cli.demo.settings import Choices, checked_choices
from hsl_cli.demo.workdir import Layout
from hsl_cli.errors import BadInputError
from hsl_data.sat import load_task_sat
from hsl_data.site import prepare_site
from node_agent.bindings import read_binding
from node_agent.settings import NodeSettings


def choices(**changed: object) -> Choices:
    given = {"sites": 2, "cases": 40, "size": 16, **changed}
    return checked_choices(DemoOptions(**given))  # type: ignore[arg-type]


def write_npz(path: Path, domains: dict[str, tuple[int, int]], names: tuple[str, ...] = ("healthy", "ill")) -> Path:
    """An archive with (healthy, ill) images in each domain."""
    draw = np.random.default_rng(1)
    labels, domain = [], []
    for index, (healthy, ill) in enumerate(domains.values()):
        labels += [0] * healthy + [1] * ill
        domain += [index] * (healthy + ill)
    np.savez(
        path,
        images=draw.integers(0, 256, (len(labels), 20, 20), dtype=np.uint8),
        labels=np.array(labels, dtype=np.uint8),
        label_names=np.array(names),
        domain=np.array(domain, dtype=np.uint8),
        domain_names=np.array(list(domains)),
    )
    return path


def test_phantoms_are_made_once_and_can_be_trained_on(tmp_path: Path) -> None:
    notes: list[str] = []
    made = prepare_images(Layout(tmp_path), choices(), notes.append)
    assert notes == ["site-1: phantoms", "site-2: phantoms"]
    made.bind("site-2", tmp_path / "node")
    file = read_binding(NodeSettings(workdir=tmp_path / "node"), made.task.task_id)
    site = prepare_site(file.binding, made.task, file.sat_path, made.sat_digest, tmp_path / "cache")
    assert site.report.num_found == 40
    assert site.data.sat is not None
    written = (tmp_path / "data" / "site-1.npz").stat().st_mtime_ns
    assert prepare_images(Layout(tmp_path), choices(), notes.append) == made
    assert (tmp_path / "data" / "site-1.npz").stat().st_mtime_ns == written


def test_an_interrupted_preparation_is_begun_again(tmp_path: Path) -> None:
    made = prepare_images(Layout(tmp_path), choices(), lambda _: None)
    (tmp_path / "data" / "images.json").unlink()
    (tmp_path / "data" / "site-1.npz").write_bytes(b"half")
    assert prepare_images(Layout(tmp_path), choices(), lambda _: None) == made


def test_every_site_gets_domains_of_its_own(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "bones.npz", {"hand": (60, 20), "leg": (30, 10), "hip": (20, 10), "toe": (9, 0)})
    made = prepare_images(Layout(tmp_path), choices(data=data), lambda _: None)
    assert {node: binding.domains for node, binding in made.bindings.items()} == {
        "site-1": ("hand",),
        "site-2": ("hip", "leg"),
    }
    assert (made.task.positive_class, made.task.negative_class) == ("ill", "healthy")


def test_the_anchor_task_is_drawn_from_the_given_file_in_the_size_of_the_images(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "bones.npz", {"hand": (20, 20), "leg": (20, 20)})
    sat = write_npz(tmp_path / "breast.npz", {"a": (30, 10), "b": (30, 10)}, ("benign", "malignant"))
    made = prepare_images(Layout(tmp_path), choices(data=data, sat=sat), lambda _: None)
    anchors = load_task_sat(made.sat_path, made.sat_digest, made.task)
    assert anchors is not None
    assert anchors.images.shape[1:] == (1, 16, 16)
    assert int(anchors.labels.sum()) * 2 == len(anchors)


def test_a_method_without_second_task_needs_no_anchors(tmp_path: Path) -> None:
    assert prepare_images(Layout(tmp_path), choices(method="fedavg"), lambda _: None).sat_digest is None


def test_too_few_domains_for_the_sites(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "bones.npz", {"hand": (20, 20), "toe": (9, 0)})
    with pytest.raises(BadInputError, match=r"each of the 2 sites needs a domain with both classes.* has 1 \(hand\)"):
        prepare_images(Layout(tmp_path), choices(data=data), lambda _: None)


def test_more_classes_than_two(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "bones.npz", {"hand": (20, 20), "leg": (20, 20)}, ("a", "b", "c"))
    with pytest.raises(BadInputError, match="two classes are needed, it has a, b, c"):
        prepare_images(Layout(tmp_path), choices(data=data), lambda _: None)
