"""Small data of our own: pictures that look nothing alike, in each kind of source."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hsl_data.binding import SiteBinding
from hsl_data.images import Pixels
from hsl_data.site import PreparedSite, prepare_site
from hsl_model.protocol.config import TaskConfig

SIZE = 16
TASK = TaskConfig(
    task_id="fracture", positive_class="broken", negative_class="whole", modality="radiograph", height=SIZE, width=SIZE
)
CLASSES = {"pos": "broken", "neg": "whole"}


def picture(number: int, size: int = SIZE) -> Pixels:
    """Noise: no two numbers look alike, to a person or to a perceptual hash."""
    return np.random.default_rng(number).integers(0, 256, (size, size), dtype=np.uint8)


def write_archive(path: Path, num: int = 60, **changes: Any) -> Path:
    """A packaged archive in which every third image is positive; `changes` replace arrays, None removes one."""
    arrays: dict[str, Any] = {
        "images": np.stack([picture(i) for i in range(num)]),
        "labels": (np.arange(num) % 3 == 0).astype(np.uint8),
        "label_names": np.array(["neg", "pos"]),
        "names": np.array([f"img-{i:04d}" for i in range(num)]),
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def write_folder(root: Path, num: int = 30) -> Path:
    """<root>/pos and <root>/neg with PNG files, every third positive."""
    for i in range(num):
        folder = root / ("pos" if i % 3 == 0 else "neg")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(folder / f"{i:03d}.png")
    return root


def bind(path: Path, **changes: Any) -> SiteBinding:
    reader = "folder" if path.is_dir() else path.suffix[1:]
    return SiteBinding.model_validate(
        {"task_id": TASK.task_id, "reader": reader, "path": path, "classes": CLASSES, **changes}
    )


def prepare(binding: SiteBinding, cache: Path, task: TaskConfig = TASK) -> PreparedSite:
    return prepare_site(binding, task, None, None, cache)
