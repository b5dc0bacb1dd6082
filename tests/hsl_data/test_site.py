import csv
import json
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hsl_data import decode, site
from hsl_data.errors import ClassMissingError, SatInvalidError, SatMissingError, UnreadableError
from hsl_data.report import NO_DOMAIN
from hsl_data.sat import write_sat
from hsl_data.site import PreparedSite, prepare_site
from hsl_data.split import SPLITS
from hsl_model.data import ImageSet
from hsl_model.protocol.messages import ClassCounts
from tests.hsl_data.helpers import SIZE, TASK, bind, picture, prepare, write_archive, write_folder


def digests(images: ImageSet) -> list[str]:
    return [decode.pixel_digest(pixels) for pixels in images.images]


def sets(prepared: PreparedSite) -> dict[str, ImageSet]:
    return {split: getattr(prepared.data, split) for split in SPLITS}


def listing(cache: Path) -> list[dict[str, str]]:
    (path,) = cache.glob("*/cases.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_archive_becomes_three_splits_and_a_report(tmp_path: Path) -> None:
    prepared = prepare(bind(write_archive(tmp_path / "a.npz", 60)), tmp_path / "cache")
    report = prepared.report
    assert report.splits == {
        "training": ClassCounts(positive=12, negative=24),
        "validation": ClassCounts(positive=2, negative=4),
        "test": ClassCounts(positive=6, negative=12),
    }
    for split, images in sets(prepared).items():
        assert images.images.shape[1:] == (1, SIZE, SIZE)
        counts = report.splits[split]
        assert (counts.positive, counts.positive + counts.negative) == (images.labels.sum(), len(images))
    assert (report.num_found, report.num_used, sum(report.not_used.values())) == (60, 60, 0)
    assert report.site_classes == {"neg": 40, "pos": 20}


def test_every_image_keeps_its_label(tmp_path: Path) -> None:
    prepared = prepare(bind(write_archive(tmp_path / "a.npz", 60)), tmp_path / "cache")
    expected = {decode.pixel_digest(picture(i)[None]): int(i % 3 == 0) for i in range(60)}
    found = {
        digest: int(label)
        for images in sets(prepared).values()
        for digest, label in zip(digests(images), images.labels, strict=True)
    }
    assert found == expected


def test_folder_manifest_and_archive_of_the_same_images_give_the_same_pixels(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 30)
    manifest = tmp_path / "cases.csv"
    names = [path.relative_to(tmp_path).as_posix() for path in sorted(root.rglob("*.png"))]
    manifest.write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
    archive = write_archive(tmp_path / "a.npz", 30)
    found = []
    for path in (root, manifest, archive):
        prepared = prepare(bind(path), tmp_path / f"cache-{path.name}")
        found.append(sorted(digest for images in sets(prepared).values() for digest in digests(images)))
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 30


# --- groups, copies, leaks -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**63 - 1))
def test_no_group_and_no_pixels_cross_splits(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, seed: int
) -> None:
    """Any mixture of copies, patients and labels, in any order of the files."""
    tmp_path = tmp_path_factory.mktemp("any")
    entries = data.draw(st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.integers(0, 9)), max_size=40))
    entries += [(100, False, 100), (101, True, 101)]  # so that both classes occur
    images = np.stack([picture(number) for number, _, _ in entries])
    labels = np.array([label for _, label, _ in entries], dtype=np.uint8)
    group = np.array([patient for _, _, patient in entries]) if data.draw(st.booleans()) else None
    names = np.array([f"n{i:03d}" for i in range(len(entries))])
    order = np.array(data.draw(st.permutations(range(len(entries)))))

    def prepared(name: str, rows: Any) -> PreparedSite:
        grouped = None if group is None else group[rows]
        archive = {"images": images[rows], "labels": labels[rows], "names": names[rows], "group": grouped}
        path = write_archive(tmp_path / f"{name}.npz", **archive)
        return prepare(bind(path, split_seed=seed), tmp_path / name)

    first, second = prepared("first", slice(None)), prepared("second", order)
    rows = listing(tmp_path / "first")
    where: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        where[f"group {row['group']}"].add(row["split"])
        patient = entries[int(row["name"][1:])][2]
        where[f"patient {row['name'] if group is None else patient}"].add(row["split"])
    for split, found in sets(first).items():
        assert len(set(digests(found))) == len(found), "a copy is left inside a split"
        for digest in digests(found):
            where[digest].add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert rows == listing(tmp_path / "second"), "the order of files decided something"
    for split, found in sets(first).items():
        assert np.array_equal(found.images, sets(second)[split].images)
    report = first.report
    assert report.num_found == report.num_used + sum(report.not_used.values())


def test_copies_are_dropped_and_counted_by_kind(tmp_path: Path) -> None:
    images = np.stack([picture(i) for i in range(30)] + [picture(1), picture(2), picture(2), picture(3)])
    labels = np.array([i % 2 for i in range(30)] + [1, 0, 0, 0], dtype=np.uint8)  # 3 is positive, its copy negative
    names = np.array([f"{i:02d}" for i in range(34)])
    report = prepare(
        bind(write_archive(tmp_path / "a.npz", images=images, labels=labels, names=names)), tmp_path
    ).report
    assert (report.counts().num_duplicates, report.counts().num_conflicting) == (3, 2)
    assert report.num_used == 29
    assert [(case.name, case.reason) for case in report.not_used_cases] == [
        ("03", "conflicting"),
        ("33", "conflicting"),
        ("30", "duplicate"),
        ("31", "duplicate"),
        ("32", "duplicate"),
    ]


def test_near_copies_share_a_split_and_are_counted(tmp_path: Path) -> None:
    images = np.stack([picture(i // 2) for i in range(60)])
    images[1::2, 0, 0] ^= 1  # one pixel differs: another image, but it looks the same
    labels = np.repeat(np.arange(30) % 2, 2).astype(np.uint8)
    path = write_archive(tmp_path / "a.npz", 60, images=images, labels=labels)
    report = prepare(bind(path), tmp_path / "cache").report
    assert (report.num_used, report.num_groups, report.num_near_copies) == (60, 30, 60)
    splits = [row["split"] for row in sorted(listing(tmp_path / "cache"), key=lambda row: row["name"])]
    assert splits[0::2] == splits[1::2]


def test_images_of_the_sat_are_not_used(tmp_path: Path) -> None:
    stolen = np.stack([picture(i)[None] for i in (0, 1, 2, 90, 91)])
    sat = write_sat(tmp_path / "s.safetensors", ImageSet(stolen, np.array([0, 1, 0, 1, 0], dtype=np.uint8)))
    binding = bind(write_archive(tmp_path / "a.npz", 60))
    prepared = prepare_site(binding, TASK, sat.path, sat.digest, tmp_path / "cache")
    assert prepared.report.not_used["in_sat"] == 3
    assert prepared.report.num_used == 57
    assert prepared.data.sat is not None
    assert np.array_equal(prepared.data.sat.images, stolen)
    used = {digest for images in sets(prepared).values() for digest in digests(images)}
    assert not used & set(digests(prepared.data.sat))
    assert any(line.startswith(f"SAT {sat.digest[:12]}: 5 images") for line in prepared.report.lines())


def test_a_run_without_a_sat_reads_none_and_one_with_a_sat_needs_it(tmp_path: Path) -> None:
    binding = bind(write_archive(tmp_path / "a.npz", 12))
    assert prepare_site(binding, TASK, tmp_path / "gone", None, tmp_path / "cache").data.sat is None
    with pytest.raises(SatMissingError, match="a" * 64):
        prepare_site(binding, TASK, None, "a" * 64, tmp_path / "cache")


def test_a_sat_of_another_size_is_refused_and_never_resized(tmp_path: Path) -> None:
    images = ImageSet(np.zeros((2, 1, 20, SIZE), dtype=np.uint8), np.array([0, 1], dtype=np.uint8))
    sat = write_sat(tmp_path / "s.safetensors", images)
    binding = bind(write_archive(tmp_path / "a.npz", 12))
    with pytest.raises(SatInvalidError, match="1 x 20 x 16, the task's 1 x 16 x 16"):
        prepare_site(binding, TASK, sat.path, sat.digest, tmp_path / "cache")


# --- unreadable images -----------------------------------------------------------------------------------------------


def spoil(root: Path) -> None:
    (root / "pos" / "000.png").write_bytes(b"")
    (root / "neg" / "001.png").write_bytes((root / "neg" / "001.png").read_bytes()[:100])
    (root / "neg" / "002.png").write_bytes(b"patient record")


def test_unreadable_images_within_the_budget_cost_a_line_each(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 30)
    spoil(root)
    report = prepare(bind(root, max_unreadable_share=0.1), tmp_path / "cache").report
    assert report.counts().num_unreadable == 3
    assert report.num_used == 27
    assert {case.name: case.detail for case in report.not_used_cases} == {
        "pos/000.png": "empty file",
        "neg/001.png": "damaged or truncated",
        "neg/002.png": "not an image (PNG, JPEG, BMP, TIFF are read)",
    }
    assert "  pos/000.png: empty file" in report.lines()


def test_unreadable_images_beyond_the_budget_are_an_error_that_names_no_image(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 30)
    spoil(root)
    with pytest.raises(UnreadableError) as caught:
        prepare(bind(root, max_unreadable_share=0.09), tmp_path / "cache")
    assert "3 of 30 images cannot be read" in caught.value.sentence()
    assert "1 empty file" in caught.value.sentence()
    assert "000" not in caught.value.sentence()
    assert [name for name, _ in caught.value.cases] == ["neg/001.png", "neg/002.png", "pos/000.png"]


def test_a_class_of_which_nothing_usable_is_left_is_missing(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 6)
    for path in (root / "pos").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ClassMissingError, match="No usable image of class 'broken'"):
        prepare(bind(root, max_unreadable_share=0.5), tmp_path / "cache")


# --- choosing --------------------------------------------------------------------------------------------------------


def test_domains_and_ignored_classes_are_accounted_for(tmp_path: Path) -> None:
    labels = np.arange(60, dtype=np.uint8) % 3
    path = write_archive(
        tmp_path / "a.npz",
        60,
        labels=labels,
        label_names=np.array(["neg", "pos", "implant"]),
        domain=(np.arange(60) >= 48).astype(np.uint8),
        domain_names=np.array(["hand", "leg"]),
    )
    report = prepare(bind(path, ignored_classes=("implant",), domains=("hand",)), tmp_path / "cache").report
    assert (report.num_found, report.num_used) == (60, 32)
    assert (report.not_used["other_domain"], report.not_used["ignored_class"]) == (12, 16)
    assert [line.domain for line in report.domains] == ["hand"]
    both = prepare(bind(path, ignored_classes=("implant",)), tmp_path / "cache").report
    assert {line.domain: sum(c.positive + c.negative for c in line.splits.values()) for line in both.domains} == {
        "hand": 32,
        "leg": 8,
    }


def test_max_cases_keeps_the_classes_proportion(tmp_path: Path) -> None:
    report = prepare(bind(write_archive(tmp_path / "a.npz", 60), max_cases=30), tmp_path / "cache").report
    assert report.num_used == 30
    assert report.not_used["over_max_cases"] == 30
    assert sum(counts.positive for counts in report.splits.values()) == 10


def test_a_class_of_two_leaves_an_empty_validation_class_and_says_so(tmp_path: Path) -> None:
    labels = np.array([1, 1] + [0] * 8, dtype=np.uint8)
    prepared = prepare(bind(write_archive(tmp_path / "a.npz", 10, labels=labels)), tmp_path / "cache")
    assert prepared.report.splits["validation"] == ClassCounts(positive=0, negative=1)
    assert any("validation holds no broken" in line for line in prepared.report.lines())


def test_an_empty_split_can_be_mapped(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.npz", 2, labels=np.array([0, 1]))
    prepared = prepare(bind(path), tmp_path / "cache")
    assert [len(images) for images in sets(prepared).values()] == [2, 0, 0]
    assert prepared.data.validation.images.shape == (0, 1, SIZE, SIZE)


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_reads_back_from_json_and_prints_a_table(tmp_path: Path) -> None:
    report = prepare(bind(write_archive(tmp_path / "a.npz", 60)), tmp_path / "cache").report
    assert type(report).model_validate_json(report.model_dump_json()) == report
    assert "12     24" in " ".join(report.lines())
    assert report.domains[0].domain == NO_DOMAIN
    assert any("the patient of 60 images is unknown" in line for line in report.lines())


def test_what_is_sent_names_nothing(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 30)
    spoil(root)
    counts = prepare(bind(root, max_unreadable_share=0.5), tmp_path / "cache").report.counts()
    sent = json.loads(counts.model_dump_json())
    assert set(sent) == {"training", "validation", "test", "num_unreadable", "num_duplicates", "num_conflicting"}
    assert ".png" not in counts.model_dump_json()


def test_leaks_of_a_published_split_are_noted(tmp_path: Path) -> None:
    images = np.stack([picture(i // 2) for i in range(20)])
    images[1::2, 0, 0] ^= 1
    path = write_archive(tmp_path / "a.npz", 20, images=images, split=np.arange(20) % 2)
    report = prepare(bind(path), tmp_path / "cache").report
    assert report.num_crossing_source == 20
    assert any("20 images would leak" in line for line in report.lines())


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each preparation decoded."""
    counts: list[int] = []

    def counted(cases: Any, *rest: Any) -> decode.Decoded:
        counts.append(len(cases))
        return decode.decode_cases(cases, *rest)

    monkeypatch.setattr(site, "decode_cases", counted)
    return counts


def test_the_second_call_maps_what_the_first_decoded(tmp_path: Path, decoded: list[int]) -> None:
    binding = bind(write_archive(tmp_path / "a.npz", 30))
    first, second = (prepare(binding, tmp_path / "cache") for _ in range(2))
    assert decoded == [30]
    assert first.report == second.report
    for split, images in sets(second).items():
        assert isinstance(images.images, np.memmap)
        assert not images.images.flags.writeable
        assert np.array_equal(images.images, sets(first)[split].images)
    assert not list((tmp_path / "cache").rglob("*scratch*"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "prepared.json").unlink(),
        lambda folder: (folder / "prepared.json").write_bytes(b"{}"),
        lambda folder: (folder / "prepared.json").write_bytes(b"\xff"),
        lambda folder: (folder / "training.npy").unlink(),
        lambda folder: (folder / "training.npy").write_bytes((folder / "training.npy").read_bytes()[:-1]),
        lambda folder: (folder / "training.npy").write_bytes((folder / "training.npy").read_bytes()[:-1] + b"\0"),
        lambda folder: (folder / "test.labels.npy").write_bytes(b""),
        lambda folder: (folder / "cases.csv").write_bytes(b""),
    ],
)
def test_a_damaged_cache_is_built_anew(tmp_path: Path, decoded: list[int], harm: Any) -> None:
    binding = bind(write_archive(tmp_path / "a.npz", 30))
    first = prepare(binding, tmp_path / "cache")
    kept = {split: images.images.copy() for split, images in sets(first).items()}
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    harm(folder)
    second = prepare(binding, tmp_path / "cache")
    assert decoded == [30, 30]
    assert all(np.array_equal(images.images, kept[split]) for split, images in sets(second).items())


def test_a_build_that_was_killed_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binding = bind(write_archive(tmp_path / "a.npz", 30))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hsl_data.cache._listing", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(binding, tmp_path / "cache")
    assert prepare(binding, tmp_path / "cache").report.num_used == 30


def test_a_changed_source_task_or_binding_is_prepared_anew(tmp_path: Path, decoded: list[int]) -> None:
    path = write_archive(tmp_path / "a.npz", 30)
    prepare(bind(path), tmp_path / "cache")
    prepare(bind(path, split_seed=1), tmp_path / "cache")
    larger = TASK.model_copy(update={"height": 20})
    assert prepare(bind(path), tmp_path / "cache", larger).data.test.images.shape[1:] == (1, 20, SIZE)
    assert decoded == [30, 30, 30]
    write_archive(path, 33)
    prepare(bind(path), tmp_path / "cache")
    assert decoded[3:] == [33]
    folders = [folder for folder in (tmp_path / "cache").iterdir() if folder.is_dir()]
    assert len(folders) == 3, "the old state of the source should be gone, the other bindings kept"


def test_many_at_once_build_only_once(tmp_path: Path, decoded: list[int]) -> None:
    binding = bind(write_archive(tmp_path / "a.npz", 30))
    found: list[PreparedSite] = []
    threads = [threading.Thread(target=lambda: found.append(prepare(binding, tmp_path / "cache"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoded == [30]
    assert len({each.report.model_dump_json() for each in found}) == 1
    assert len(found) == 4


def test_images_of_other_sizes_are_resized_and_counted(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "images", 12)
    Image.fromarray(picture(50, 40)).save(root / "neg" / "large.png")
    report = prepare(bind(root), tmp_path / "cache").report
    assert report.num_resized == 1
    assert "1 resized" in report.lines()[1]
