"""What the site's admin has bound to a task: `bindings/<task_id>.json`, written by `hsl node bind` or the site API."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from hsl_data.binding import SiteBinding
from hsl_model.protocol.config import Message, RunConfig
from hsl_model.protocol.manifest import canonical_json
from node_agent.errors import BindingInvalidError, BindingMissingError
from node_agent.private_files import write_private
from node_agent.settings import NodeSettings
from node_agent.trainer.messages import SiteSource

MAX_NAME_BYTES = 200  # a name may have 255, with the ending and that of the file while it is written


class BindingFile(Message):
    """The site's data for one task, and where its copy of the SAT bundle lies (None where a run needs none)."""

    binding: SiteBinding
    sat_path: Path | None = None


def write_binding(settings: NodeSettings, file: BindingFile) -> Path:
    path = _path(settings, file.binding.task_id)
    write_private(path, canonical_json(file))
    return path


def read_binding(settings: NodeSettings, task_id: str) -> BindingFile:
    """Raises `BindingMissingError` or `BindingInvalidError`, which say what to do."""
    try:
        return BindingFile.model_validate_json(_path(settings, task_id).read_bytes())
    except FileNotFoundError as error:
        raise BindingMissingError(task_id=task_id) from error
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise BindingInvalidError(task_id=task_id, reason=reason) from error


def list_bindings(settings: NodeSettings) -> tuple[BindingFile, ...]:
    if not settings.bindings_folder.is_dir():
        return ()
    paths = sorted(settings.bindings_folder.glob("*.json"))
    return tuple(BindingFile.model_validate_json(path.read_bytes()) for path in paths)


def site_source(settings: NodeSettings, config: RunConfig) -> SiteSource:
    """What the training child needs to find this site's data for a run."""
    file = read_binding(settings, config.task.task_id)
    return SiteSource(
        binding=file.binding.model_dump(mode="json"),
        sat_path=file.sat_path if config.sat_digest else None,
        task=config.task,
        sat_digest=config.sat_digest,
        cache=settings.cache_folder,
    )


def _path(settings: NodeSettings, task_id: str) -> Path:
    """Task ids are free text of the alliance: whatever could leave the folder becomes an underscore, and what no file
    system takes for a name gives way to its digest."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task_id).lstrip(".")
    if len(name.encode()) > MAX_NAME_BYTES:
        name = hashlib.sha256(task_id.encode()).hexdigest()
    return settings.bindings_folder / f"{name or '_'}.json"
