import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hsl_data import images
from hsl_data.errors import UnreadableImageError
from hsl_data.images import load_image
from hsl_model.protocol.config import TaskConfig
from tests.hsl_data.helpers import SIZE, TASK, picture

COLOUR = TASK.model_copy(update={"channels": 3})


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    file = io.BytesIO()
    (image or Image.fromarray(picture(1, 40))).save(file, kind)
    return file.getvalue()


def refused(path: Path, task: TaskConfig = TASK) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        load_image(path, task)
    return caught.value.reason


def test_pixels_of_the_right_size_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture(5)).save(path)
    assert np.array_equal(load_image(path, TASK), picture(5)[None])


def test_other_sizes_are_stretched_to_the_task(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((30, 90), 77, dtype=np.uint8)).save(path)
    assert np.array_equal(load_image(path, TASK), np.full((1, SIZE, SIZE), 77))


def test_grey_and_colour_are_converted_to_the_channels_of_the_task(tmp_path: Path) -> None:
    colour = tmp_path / "colour.png"
    Image.fromarray(np.stack([np.full((SIZE, SIZE), v, dtype=np.uint8) for v in (255, 0, 0)], axis=2)).save(colour)
    assert load_image(colour, COLOUR)[:, 0, 0].tolist() == [255, 0, 0]
    assert load_image(colour, TASK)[:, 0, 0].tolist() == [76]
    grey = tmp_path / "grey.png"
    Image.fromarray(picture(2)).save(grey)
    assert np.array_equal(load_image(grey, COLOUR), np.stack([picture(2)] * 3))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_usual_mode_is_read(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(picture(1)).convert("I").convert(mode).save(path) if mode == "I;16" else (
        Image.fromarray(picture(1)).convert("RGB").convert(mode).save(path)
    )
    assert load_image(path, TASK).shape == (1, SIZE, SIZE)
    assert load_image(path, COLOUR).shape == (3, SIZE, SIZE)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    image = Image.fromarray(picture(1)).convert("P")
    image.save(path, transparency=bytes(range(256)))
    assert load_image(path, TASK).shape == (1, SIZE, SIZE)


def test_twelve_bits_in_sixteen_use_the_whole_range(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    deep = np.linspace(1000, 4095, SIZE * SIZE).reshape(SIZE, SIZE).astype(np.uint16)
    Image.fromarray(deep).save(path)
    pixels = load_image(path, TASK)
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert (np.diff(pixels.reshape(-1).astype(int)) >= 0).all(), "wrapped around instead of scaled"


def test_a_flat_deep_image_is_black_and_one_with_nan_is_refused(tmp_path: Path) -> None:
    flat, broken = tmp_path / "flat.tiff", tmp_path / "nan.tiff"
    Image.fromarray(np.full((SIZE, SIZE), 900, dtype=np.uint16)).save(flat)
    assert load_image(flat, TASK).max() == 0
    Image.fromarray(np.full((SIZE, SIZE), np.nan, dtype=np.float32)).save(broken)
    assert refused(broken) == "damaged or truncated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_orientation_is_followed_only_where_the_task_asks(tmp_path: Path, kind: str) -> None:
    half = np.zeros((SIZE, SIZE), dtype=np.uint8)
    half[: SIZE // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees: the top is at the left
    path = tmp_path / "turned"
    Image.fromarray(half).save(path, kind, exif=exif)
    as_stored = load_image(path, TASK)[0]
    upright = load_image(path, TASK.model_copy(update={"orientation": "upright"}))[0]
    assert as_stored[2].min() > 200
    assert upright[:, 2].max() < 50
    assert upright[:, -3].min() > 200


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not an image at all", "not an image (PNG, JPEG, BMP, TIFF are read)"),
        (b"\x80\x04\x95 a pickle", "not an image (PNG, JPEG, BMP, TIFF are read)"),
        (encoded("GIF"), "not an image (PNG, JPEG, BMP, TIFF are read)"),
        (encoded("JPEG")[:-200], "damaged or truncated"),
        (encoded("PNG")[:-300], "damaged or truncated"),
        (encoded("BMP")[:-300], "damaged or truncated"),
        (encoded("TIFF")[:-300], "damaged or truncated"),
    ],
    ids=["empty", "text", "pickle", "other format", "jpeg", "png", "bmp", "tiff"],
)
def test_unreadable_files_say_why(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert refused(path) == reason


def test_missing_files_and_folders_say_why(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.png") == "no such file"
    (tmp_path / "folder.png").mkdir()
    assert refused(tmp_path / "folder.png") == "damaged or truncated"


def test_a_header_cannot_claim_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytearray(encoded("BMP"))
    bomb[18:26] = (30_000).to_bytes(4, "little") * 2
    path = tmp_path / "bomb.bmp"
    path.write_bytes(bomb)
    assert refused(path) == "more than 64,000,000 pixels"
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    path.write_bytes(encoded("PNG"))
    assert refused(path) == "more than 1,000 pixels"


@given(st.sampled_from(["JPEG", "PNG", "BMP", "TIFF"]), st.data())
def test_damaged_bytes_are_an_image_or_unreadable_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    raw = bytearray(encoded(kind, Image.fromarray(picture(3, 12))))
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow also warns of what it repairs
        with contextlib.suppress(UnreadableImageError):
            assert load_image(path, TASK).shape == (1, SIZE, SIZE)
