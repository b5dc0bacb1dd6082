from pathlib import Path

import numpy as np
import pytest

from hsl_data.decode import pixel_digest
from hsl_data.errors import SatDigestError, SatInvalidError, SatTooSmallError, UnmappedClassError
from hsl_data.sat import SatFacts, build_sat, load_sat, write_sat
from hsl_model.checkpoint import read_tensors, tensors_digest, write_tensors
from hsl_model.data import ImageSet
from tests.hsl_data.helpers import SIZE, TASK, bind, picture, write_archive, write_folder

TWO = ImageSet(np.stack([picture(1)[None], picture(2)[None]]), np.array([1, 0], dtype=np.uint8))


@pytest.fixture
def built(tmp_path: Path) -> SatFacts:
    return build_sat(bind(write_archive(tmp_path / "a.npz", 60)), TASK, 10, tmp_path / "sat.safetensors")


def test_a_bundle_holds_so_many_of_each_class_with_their_labels(built: SatFacts) -> None:
    sat = load_sat(built.path, built.digest)
    assert sat.images.shape == (20, 1, SIZE, SIZE)
    labels = {pixel_digest(picture(i)[None]): int(i % 3 == 0) for i in range(60)}
    assert [labels[pixel_digest(pixels)] for pixels in sat.images] == sat.labels.tolist()
    assert (built.num_positive, built.num_negative, int(sat.labels.sum())) == (10, 10, 10)
    assert 0 < sat.labels[:10].sum() < 10, "the classes should be mixed, not one after the other"
    assert f"digest {built.digest}" in built.lines()


def test_the_digest_depends_on_content_alone(tmp_path: Path, built: SatFacts) -> None:
    order = np.random.default_rng(0).permutation(60)
    shuffled = write_archive(
        tmp_path / "shuffled.npz",
        60,
        images=np.stack([picture(int(i)) for i in order]),
        labels=(order % 3 == 0).astype(np.uint8),
        names=np.array([f"img-{i:04d}" for i in order]),
    )
    again = build_sat(bind(shuffled), TASK, 10, tmp_path / "again.safetensors")
    assert again.digest == built.digest
    assert again.path.read_bytes() == built.path.read_bytes()
    other = build_sat(bind(shuffled), TASK, 10, tmp_path / "other.safetensors", seed=1)
    assert other.digest != built.digest


def test_any_reader_will_do_and_resizing_is_told(tmp_path: Path) -> None:
    larger = TASK.model_copy(update={"height": 20, "width": 24, "channels": 3})
    facts = build_sat(bind(write_folder(tmp_path / "images", 30)), larger, 5, tmp_path / "sat.safetensors")
    assert (facts.channels, facts.height, facts.width, facts.num_resized) == (3, 20, 24, 30)
    assert "30 images were resized for it" in facts.lines()
    assert load_sat(facts.path, facts.digest).images.shape == (10, 3, 20, 24)
    assert not list(tmp_path.glob("*.scratch"))


def test_copies_and_conflicts_are_left_out(tmp_path: Path) -> None:
    images = np.stack([picture(i) for i in (0, 0, 0, 1, 1, 2, 3)])
    labels = np.array([0, 0, 0, 0, 1, 1, 0], dtype=np.uint8)
    path = write_archive(tmp_path / "a.npz", 7, images=images, labels=labels)
    facts = build_sat(bind(path), TASK, 1, tmp_path / "sat.safetensors")
    found = {pixel_digest(pixels) for pixels in load_sat(facts.path, facts.digest).images}
    assert pixel_digest(picture(2)[None]) in found
    assert pixel_digest(picture(1)[None]) not in found
    with pytest.raises(SatTooSmallError, match="2 images of broken were asked for, but only 1 can"):
        build_sat(bind(path), TASK, 2, tmp_path / "more.safetensors")
    assert not (tmp_path / "more.safetensors").exists()


def test_the_classes_may_have_counts_of_their_own(tmp_path: Path) -> None:
    facts = build_sat(bind(write_archive(tmp_path / "a.npz", 60)), TASK, (12, 1), tmp_path / "sat.safetensors")
    assert (facts.num_negative, facts.num_positive) == (12, 1)


def test_a_source_is_read_with_the_same_rules_as_a_sites(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 6, label_names=np.array(["neg", "positive"]))
    with pytest.raises(UnmappedClassError):
        build_sat(bind(path), TASK, 1, tmp_path / "sat.safetensors")


def test_a_wrong_digest_is_refused_with_both(tmp_path: Path, built: SatFacts) -> None:
    with pytest.raises(SatDigestError) as caught:
        load_sat(built.path, "0" * 64)
    assert built.digest in caught.value.sentence()
    assert "0" * 64 in caught.value.sentence()


def test_one_changed_pixel_or_label_is_another_digest(tmp_path: Path, built: SatFacts) -> None:
    tensors = read_tensors(built.path)
    for name in ("images", "labels"):
        changed = {key: value.copy() for key, value in tensors.items()}
        changed[name].flat[0] ^= 1
        write_tensors(tmp_path / "changed.safetensors", changed)
        with pytest.raises(SatDigestError):
            load_sat(tmp_path / "changed.safetensors", built.digest)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "cut short"),
        (b"\x80\x04\x95 a pickle", "pickle"),
        (b"PK\x03\x04 an archive", "pickle"),
    ],
)
def test_files_that_are_no_bundles_say_why(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "sat.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SatInvalidError, match=said):
        load_sat(path, "0" * 64)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"images": TWO.images}, "instead of images and labels"),
        ({"images": TWO.images, "labels": TWO.labels, "more": TWO.labels}, "instead of images and labels"),
        ({"images": TWO.images.astype(np.float32), "labels": TWO.labels}, "images must be uint8"),
        ({"images": TWO.images[:, 0], "labels": TWO.labels}, "images must be uint8"),
        ({"images": TWO.images, "labels": TWO.labels[:1]}, "2 images but labels"),
        ({"images": TWO.images, "labels": TWO.labels.astype(np.int64)}, "labels must be uint8"),
        ({"images": TWO.images, "labels": TWO.labels * 0}, "both 0 and 1"),
        ({"images": TWO.images, "labels": TWO.labels * 2}, "both 0 and 1"),
    ],
)
def test_tensors_that_are_no_anchor_task_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], said: str) -> None:
    """Even where the digest is the declared one: whoever built it may have erred."""
    write_tensors(tmp_path / "sat.safetensors", tensors)
    with pytest.raises(SatInvalidError, match=said):
        load_sat(tmp_path / "sat.safetensors", tensors_digest(tensors.items()))


def test_what_is_written_loads_with_its_digest(tmp_path: Path) -> None:
    facts = write_sat(tmp_path / "sat.safetensors", TWO)
    assert np.array_equal(load_sat(facts.path, facts.digest).images, TWO.images)
