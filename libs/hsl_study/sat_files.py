"""From what a study says of its sources to files: bindings of data sets, and the bundles of its shared anchor tasks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hsl_data.binding import SiteBinding
from hsl_data.errors import (
    ClassMappingError,
    ClassMissingError,
    DomainMissingError,
    SatTooSmallError,
    SourceError,
    UnmappedClassError,
)
from hsl_data.phantoms import write_phantom_public, write_phantom_sat
from hsl_data.sat import build_sat
from hsl_model.protocol.config import TaskConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.seeding import stream_seed
from hsl_study.arm_sat import OWN, bundle_name
from hsl_study.config import StudyConfig
from hsl_study.source_config import PUBLIC_PHANTOMS, DataConfig


def write_bundles(config: StudyConfig, folder: Path) -> dict[str, Path]:
    """The study's own SAT and every other bundle that one of its arms trains on, by name; each is drawn once."""
    known = config.sat_sources()
    _check_paths(config)
    wanted = {
        bundle_name(source, draw) for arm in config.arms for source in arm.sat.sources for draw in range(arm.sat.draws)
    }
    files: dict[str, Path] = {}
    for name in sorted(wanted | {OWN}):
        source, _, draw = name.partition(".")
        if source not in known:
            continue
        files[name] = folder / (f"{OWN}.safetensors" if name == OWN else f"{OWN}.{name}.safetensors")
        if not files[name].is_file():
            _write_bundle(config, source, int(draw or 0), files[name])
    return files


def binding_of(data: DataConfig | None, task: TaskConfig, option: str) -> SiteBinding:
    """`option`: where on the command line a path may be given."""
    if data is None or data.path is None:
        raise ConfigError(reason=f"the study does not say where its images are; give --{option} PATH")
    if not data.path.exists():
        raise ConfigError(reason=f"--{option} {data.path}: there is no such file or folder")
    return SiteBinding(
        task_id=task.task_id,
        reader=data.reader,
        path=data.path,
        classes=data.classes,
        ignored_classes=data.ignored_classes,
        domains=data.domains,
        max_unreadable_share=data.max_unreadable_share,
    )


def _check_paths(config: StudyConfig) -> None:
    """Before the first is read: arms whose anchors are nowhere named are told with the arms that do without them."""
    nowhere = {name for name, source in config.sats.items() if source.path is None}
    needed = {arm.name: nowhere.intersection(arm.sat.sources) for arm in config.arms}
    needy = {name for name, sources in needed.items() if sources}
    if not needy:
        return
    options = ", ".join(f"--sat {name}=PATH" for name in sorted(set().union(*needed.values())))
    without = " ".join(f"--arm {arm.name}" for arm in config.arms if arm.name not in needy)
    reason = f"the study does not say where all its anchors are; give {options}"
    raise ConfigError(reason=f"{reason}, or go without {', '.join(sorted(needy))}: {without}" if without else reason)


@contextmanager
def named_source(option: str, data: DataConfig | None) -> Iterator[None]:
    """A study has several sources: what does not fit in one of them is told with its option, as `ConfigError`."""
    try:
        yield
    except SourceError as error:
        layout = "" if data is None else f", read as {data.reader}"
        other = "--reader" if option == "data" else "--sat-reader"
        raise ConfigError(reason=f"--{option}{layout} (another layout: {other}): {error}") from error
    except (ClassMappingError, ClassMissingError, DomainMissingError, SatTooSmallError, UnmappedClassError) as error:
        raise ConfigError(reason=f"--{option}: {error}") from error


def _write_bundle(config: StudyConfig, source: str, draw: int, path: Path) -> None:
    wanted = config.sat_configs().get(source)
    if wanted is not None:
        names = {"positive_class": wanted.positive_class, "negative_class": wanted.negative_class}
        task = config.task.model_copy(update={"task_id": "sat", **names})
        option = "sat" if source == OWN else f"sat {source}"
        with named_source(option, wanted):
            build_sat(binding_of(wanted, task, option), task, wanted.counts, path, _seed(wanted.seed, draw))
    elif config.phantoms is not None:
        phantoms, size, channels = config.phantoms, config.task.height, config.task.channels
        write = write_phantom_public if source == PUBLIC_PHANTOMS else write_phantom_sat
        write(path, phantoms.sat_per_class, size, _seed(phantoms.seed + 1, draw), channels)


def _seed(own: int, draw: int) -> int:
    return own if draw == 0 else stream_seed(own, "another draw", draw)
