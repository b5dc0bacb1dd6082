"""The demo's images: phantoms, or real ones of which every site gets other domains (body regions, devices)."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from hsl_cli.demo.settings import PHANTOM_SIZE, Choices
from hsl_cli.demo.workdir import Layout
from hsl_cli.errors import BadInputError
from hsl_cli.options import Site
from hsl_data.binding import SiteBinding
from hsl_data.phantoms import CLASSES, write_phantom_sat, write_phantom_sites
from hsl_data.readers.npz import NpzContent, read_npz
from hsl_data.sat import build_sat
from hsl_model.durable import write_bytes
from hsl_model.protocol.config import Message, Sha256, TaskConfig
from hsl_model.protocol.methods import method_facts
from node_agent.bindings import BindingFile, write_binding

SAT_SHARE = 0.3  # of `cases`, for each class: together as many images as a site trains on (60 %)


class DemoImages(Message):
    """data/images.json: written last, so that an interrupted preparation is begun again."""

    choices: Choices
    task: TaskConfig
    sat_path: Path | None
    sat_digest: Sha256 | None
    bindings: dict[str, SiteBinding]

    def bind(self, node_id: str, workdir: Path) -> None:
        file = BindingFile(binding=self.bindings[node_id], sat_path=self.sat_path)
        write_binding(Site(workdir=workdir).settings(), file)


def prepare_images(layout: Layout, choices: Choices, note: Callable[[str], None]) -> DemoImages:
    """Make or find the sites' images and the shared anchor task; done once for the same choices."""
    ready = layout.data / "images.json"
    try:
        found = DemoImages.model_validate_json(ready.read_bytes())
    except (FileNotFoundError, ValidationError):
        found = None
    if found is not None and found.choices == choices:
        return found
    shutil.rmtree(layout.data, ignore_errors=True)
    layout.data.mkdir(parents=True)
    task, bindings = _phantoms(layout, choices) if choices.data is None else _split(Path(choices.data), choices)
    made = DemoImages(choices=choices, task=task, sat_path=None, sat_digest=None, bindings=bindings)
    if method_facts(choices.method).default_architecture == "mmoe":  # the others have no second task
        path = layout.data / "sat.safetensors"
        made = made.model_copy(update={"sat_path": path, "sat_digest": _sat(path, choices, task)})
    write_bytes(ready, made.model_dump_json(indent=2).encode())
    for node_id, binding in bindings.items():
        note(f"{node_id}: {', '.join(binding.domains) or 'phantoms'}")
    return made


def _phantoms(layout: Layout, choices: Choices) -> tuple[TaskConfig, dict[str, SiteBinding]]:
    size = choices.size or PHANTOM_SIZE
    paths = write_phantom_sites(layout.data, choices.sites, choices.cases, size, choices.seed)
    task = _task("phantom-fractures", CLASSES, "phantom radiograph", (1, size, size))
    nodes = choices.node_ids()
    return task, {node: _binding(path, task, choices, ()) for node, path in zip(nodes, paths, strict=True)}


def _split(data: Path, choices: Choices) -> tuple[TaskConfig, dict[str, SiteBinding]]:
    """Whole domains to each site, so that the sites differ as hospitals do."""
    content = read_npz(data)
    if len(content.classes) != 2:
        raise BadInputError(reason=f"--data {data}: two classes are needed, it has {', '.join(content.classes)}.")
    channels = 3 if content.images.ndim == 4 else 1
    height, width = content.images.shape[1:3]
    shape = (channels, choices.size or height, choices.size or width)
    task = _task(data.stem, content.classes, "image", shape)
    shares = share_domains(content, choices.sites, data)
    bindings = {
        node: _binding(data, task, choices, domains) for node, domains in zip(choices.node_ids(), shares, strict=True)
    }
    return task, bindings


def share_domains(content: NpzContent, num_sites: int, data: Path) -> list[tuple[str, ...]]:
    """Domains with both classes, the largest first, each to the site that has the fewest cases so far."""
    classes: dict[str, list[str]] = {}
    for domain, label in zip(content.domains, content.labels, strict=True):
        if domain is not None:
            classes.setdefault(domain, []).append(label)
    usable = {domain: len(labels) for domain, labels in classes.items() if len(set(labels)) == 2}
    if len(usable) < num_sites:
        names = ", ".join(sorted(usable)) or "none"
        raise BadInputError(
            reason=f"--data {data}: each of the {num_sites} sites needs a domain with both classes, and the file has "
            f"{len(usable)} ({names}); choose fewer --sites or another file."
        )
    shares: list[list[str]] = [[] for _ in range(num_sites)]
    sizes = [0] * num_sites
    for domain in sorted(usable, key=lambda one: (-usable[one], one)):
        least = sizes.index(min(sizes))
        shares[least].append(domain)
        sizes[least] += usable[domain]
    return [tuple(sorted(share)) for share in shares]


def _sat(path: Path, choices: Choices, task: TaskConfig) -> str:
    """Write the shared anchor task in the size of `task`; its digest."""
    per_class = max(8, int(choices.cases * SAT_SHARE))
    if choices.sat is None and task.height != task.width:
        raise BadInputError(reason=f"The images are {task.height} x {task.width}, phantoms are square: give --size.")
    if choices.sat is None:
        return write_phantom_sat(path, per_class, task.height, choices.seed, task.channels).digest
    source = Path(choices.sat)
    content = read_npz(source)
    if len(content.classes) != 2:
        raise BadInputError(reason=f"--sat {source}: two classes are needed, it has {', '.join(content.classes)}.")
    anchor = _task("sat", content.classes, "image", (task.channels, task.height, task.width))
    smallest = min(content.labels.count(name) for name in content.classes)
    binding = _binding(source, anchor, choices, ()).model_copy(update={"max_cases": None})
    # Copies are left out of a SAT: do not ask for the last image of the smaller class.
    return build_sat(binding, anchor, min(per_class, max(1, smallest * 9 // 10)), path, choices.seed).digest


def _task(task_id: str, classes: Sequence[str], modality: str, shape: tuple[int, int, int]) -> TaskConfig:
    """Of two classes the second is the positive one, as label 1 is in these files."""
    channels, height, width = shape
    try:
        return TaskConfig.model_validate(
            {
                "task_id": task_id,
                "negative_class": classes[0],
                "positive_class": classes[1],
                "modality": modality,
                "channels": channels,
                "height": int(height),
                "width": int(width),
            }
        )
    except ValidationError as error:
        found = error.errors()[0]
        raise BadInputError(reason=f"These images make no task: {found['loc'][0]}: {found['msg']}.") from error


def _binding(path: Path, task: TaskConfig, choices: Choices, domains: tuple[str, ...]) -> SiteBinding:
    return SiteBinding(
        task_id=task.task_id,
        reader="npz",
        path=path,
        classes={task.positive_class: task.positive_class, task.negative_class: task.negative_class},
        domains=domains,
        max_cases=choices.cases,
        split_seed=choices.seed,
    )
