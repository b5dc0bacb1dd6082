"""From what `hsl study run` was told to a checked study: a file or a name, a scale, and what the options change."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsl_cli.errors import BadInputError
from hsl_cli.source import class_mapping

if TYPE_CHECKING:
    from hsl_study.config import StudyConfig


@dataclass(frozen=True)
class SourceOptions:
    """Of `data` or `sat`: where its images are and, for images other than the study's, how to read them."""

    path: Path | None = None
    reader: str | None = None
    classes: Sequence[str] = ()

    def over(self, section: dict[str, Any]) -> dict[str, Any]:
        """Paths are made absolute, since cells run elsewhere."""
        changed = dict(section)
        if (path := self.path or section.get("path")) is not None:
            changed["path"] = str(Path(path).resolve())
        if self.path is not None and self.path.suffix in (".npz", ".csv"):
            changed["reader"] = self.path.suffix[1:]
        if self.classes:
            changed |= {"classes": class_mapping(list(self.classes)), "ignored_classes": ()}
        return changed | ({} if self.reader is None else {"reader": self.reader})


@dataclass(frozen=True)
class StudyOptions:
    scale: str | None = None
    seeds: str | None = None
    arms: Sequence[str] = ()
    size: int | None = None
    data: SourceOptions = SourceOptions()
    sat: SourceOptions = SourceOptions()

    def over(self, study: dict[str, Any]) -> dict[str, Any]:
        changed = dict(study)
        for name, options in (("data", self.data), ("sat", self.sat)):
            if name in study:
                changed[name] = options.over(study[name])
            elif options != SourceOptions():
                raise BadInputError(reason=f"--{name}: the study has no section [{name}] that says how to read it.")
        if self.seeds is not None:
            changed["seeds"] = self.seeds if "-" in self.seeds else _numbers(self.seeds)
        if self.size is not None:
            changed["task"] = {**study.get("task", {}), "height": self.size, "width": self.size}
        return self._with_arms(changed) if self.arms else changed

    def _with_arms(self, study: dict[str, Any]) -> dict[str, Any]:
        """Some of the study's arms; contrasts with the others go."""
        known = [arm["name"] for arm in study["arms"]]
        if unknown := sorted(set(self.arms) - set(known)):
            raise BadInputError(reason=f"--arm {unknown[0]}: the study has {', '.join(known)}.")
        contrasts = [pair for pair in study.get("contrasts", ()) if set(pair) <= set(self.arms)]
        return study | {"arms": [arm for arm in study["arms"] if arm["name"] in self.arms], "contrasts": contrasts}


def load_study(config: str, options: StudyOptions) -> "StudyConfig":
    """`config`: a .toml or .json file, or the name of a study that comes with HeteroSync."""
    from pydantic import ValidationError

    from hsl_cli.config_file import parse_file, wrong_keys
    from hsl_model.protocol.errors import ConfigError
    from hsl_study import configs
    from hsl_study.config import StudyConfig
    from hsl_study.scales import composed

    path = configs.path_of(config) or Path(config)
    parsed = parse_file(path)
    if not isinstance(parsed, dict):
        raise BadInputError(reason=f"{path} is not a study: it must hold a table.")
    try:
        return StudyConfig.model_validate(options.over(composed(parsed, options.scale)))
    except ValidationError as error:
        reason = f"{path} is not a study; correct these keys:\n{wrong_keys(error)}"
        raise BadInputError(reason=reason) from error
    except ConfigError as error:
        raise BadInputError(reason=f"{path}: {error.data['reason']}") from error


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInputError(reason=f"--seeds {text}: write numbers like 0,1,2 or a range like 0-4.") from error
