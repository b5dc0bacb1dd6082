"""From a picture file to uint8 pixels (C, H, W) of the task's size: the same way in training and in `hsl predict`.

Stretched, not letter-boxed, with bicubic interpolation (the paper resizes so); pixels of the right size are kept as
they are. More than 8 bits a pixel are scaled from the image's own darkest..brightest to 0..255.
"""

import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from hsl_data.errors import UnreadableImageError
from hsl_model.protocol.config import TaskConfig

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 64_000_000  # a crafted header cannot make us allocate gigabytes; a mammogram has about 20 million pixels
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# What decoders raise on damaged input; anything else is a bug and must be seen.
_DECODER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    ArithmeticError,
    NotImplementedError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def load_image(path: Path, task: TaskConfig) -> Pixels:
    """One image file as the task's pixels (C, H, W), or `UnreadableImageError`."""
    return fitted(partial(open_image, path), path.name, task)[0]


def open_image(path: Path) -> Image.Image:
    """Decode a file whole, so that a truncated one fails here and not later."""
    if path.stat().st_size == 0:
        raise UnreadableImageError(path.name, "empty file")
    with Image.open(path, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImageError(path.name, f"more than {MAX_PIXELS:,} pixels")
        image.load()
        return image


def fitted(load: Callable[[], Image.Image], name: str, task: TaskConfig) -> tuple[Pixels, bool]:
    """What `load` returns as the task's pixels, and whether it had to be resized for that.

    Whatever a decoder raises becomes `UnreadableImageError`.
    """
    try:
        image = upright(load(), task)
        return fit(image, task), image.size != (task.width, task.height)
    except FileNotFoundError as error:
        raise UnreadableImageError(name, "no such file") from error
    except PermissionError as error:
        raise UnreadableImageError(name, "no permission to read it") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, f"not an image ({', '.join(FORMATS)} are read)") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(name, f"more than {MAX_PIXELS:,} pixels") from error
    except _DECODER_ERRORS as error:
        raise UnreadableImageError(name, "damaged or truncated") from error


def upright(image: Image.Image, task: TaskConfig) -> Image.Image:
    """Turned as the picture's EXIF data say, where the task asks for that."""
    return ImageOps.exif_transpose(image) if task.orientation == "upright" else image


def fit(image: Image.Image, task: TaskConfig) -> Pixels:
    """Pixels (C, H, W) of the task: 8 bits, channels, size, in this order."""
    if image.mode in _DEEP_MODES:
        image = _eight_bits(image)
    if image.mode == "P":
        image = image.convert("RGBA")  # only this conversion reads a palette's transparency without a warning
    image = image.convert("RGB" if task.channels == 3 else "L")
    if image.size != (task.width, task.height):
        image = image.resize((task.width, task.height), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if task.channels == 3 else pixels[None])


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("not finite")
    low, high = values.min(), values.max()
    scaled = np.zeros_like(values) if low == high else (values - low) * (255.0 / (high - low))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
