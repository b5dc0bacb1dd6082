"""From what `hsl study run` was told to a checked study: a file or a name, a scale, and what the options change."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsl_cli.errors import BadInputError
from hsl_cli.source import class_mapping

if TYPE_CHECKING:
    from hsl_study.config import StudyConfig

OWN = "sat"  # the name of [sat] among the shared anchor tasks (hsl_study/arm_sat.py)


@dataclass(frozen=True)
class SourceOptions:
    """Where images are and, for images other than the study's, how to read them."""

    path: Path | None = None
    reader: str | None = None
    classes: Sequence[str] = ()
    ignored: Sequence[str] = ()

    def over(self, section: dict[str, Any]) -> dict[str, Any]:
        """Paths are made absolute, since cells run elsewhere."""
        changed = dict(section)
        if (path := self.path or section.get("path")) is not None:
            changed["path"] = str(Path(path).resolve())
        if self.path is not None and self.path.suffix in (".npz", ".csv"):
            changed["reader"] = self.path.suffix[1:]
        if self.classes:
            changed |= {"classes": class_mapping(list(self.classes)), "ignored_classes": ()}
        if self.ignored:
            changed["ignored_classes"] = tuple(self.ignored)
        return changed | ({} if self.reader is None else {"reader": self.reader})


@dataclass(frozen=True)
class AnchorOptions:
    """The shared anchor tasks: `paths` as PATH of [sat] or NAME=PATH of [sats.NAME]; the rest is about [sat] alone."""

    paths: Sequence[str] = ()
    reader: str | None = None
    classes: Sequence[str] = ()
    ignored: Sequence[str] = ()
    per_class: int | None = None

    def over(self, study: dict[str, Any]) -> dict[str, Any]:
        """`sat` and `sats` of the study, changed. Raises `BadInputError` for one that the study has not."""
        paths = dict(_named(path) for path in self.paths)
        own, others = study.get("sat"), dict(study.get("sats", {}))
        known = {*others, *(() if own is None else (OWN,))}
        wanted = {*paths, *((OWN,) if self.reader or self.classes or self.ignored or self.per_class else ())}
        if unknown := sorted(wanted - known):
            raise _no_section("--sat", "[sat]" if unknown[0] == OWN else f"[sats.{unknown[0]}]", study)
        changed = {name: SourceOptions(paths.get(name)).over(section) for name, section in others.items()}
        if own is None:
            return {"sats": changed}
        options = SourceOptions(paths.get(OWN), self.reader, self.classes, self.ignored)
        fewer = {} if self.per_class is None else {"per_class": self.per_class}
        return {"sat": options.over(own) | fewer, "sats": changed}


@dataclass(frozen=True)
class StudyOptions:
    scale: str | None = None
    override: Path | None = None
    seeds: str | None = None
    arms: Sequence[str] = ()
    size: int | None = None
    data: SourceOptions = SourceOptions()
    sats: AnchorOptions = AnchorOptions()

    def over(self, study: dict[str, Any]) -> dict[str, Any]:
        changed = study | self.sats.over(study)
        if "data" in study:
            changed["data"] = self.data.over(study["data"])
        elif self.data != SourceOptions():
            raise _no_section("--data", "[data]", study)
        if self.seeds is not None:
            changed["seeds"] = self.seeds if "-" in self.seeds else _numbers(self.seeds)
        if self.size is not None:
            changed["task"] = {**study.get("task", {}), "height": self.size, "width": self.size}
        return self._with_arms(changed) if self.arms else changed

    def _with_arms(self, study: dict[str, Any]) -> dict[str, Any]:
        """Some of the arms; what compares with the others goes, and so do shared anchor tasks that only they have."""
        known = {arm["name"]: arm for arm in study["arms"]}
        if unknown := sorted(set(self.arms) - set(known)):
            raise BadInputError(reason=f"--arm {unknown[0]}: the study has {', '.join(known)}.")
        arms = [arm for name, arm in known.items() if name in self.arms]
        sources = {source for arm in arms for source in arm.get("sat", {}).get("sources", ())}
        return study | {
            "arms": arms,
            "contrasts": [pair for pair in study.get("contrasts", ()) if set(pair) <= set(self.arms)],
            "gap": gap if (gap := study.get("gap")) is not None and set(gap) <= set(self.arms) else None,
            "sats": {name: section for name, section in study["sats"].items() if name in sources},
        }


def load_study(config: str, options: StudyOptions) -> "StudyConfig":
    """`config`: a .toml or .json file, or the name of a study that comes with HeteroSync."""
    from pydantic import ValidationError

    from hsl_cli.config_file import parse_file, wrong_keys
    from hsl_model.protocol.errors import ConfigError
    from hsl_study import configs
    from hsl_study.config import StudyConfig
    from hsl_study.scales import composed

    path = configs.path_of(config) or Path(config)
    parsed, own = parse_file(path), {} if options.override is None else parse_file(options.override)
    if not isinstance(parsed, dict) or not isinstance(own, dict):
        raise BadInputError(reason=f"{path} is not a study: it must hold a table.")
    parsed |= own  # whole sections: classes of another source may not be mixed with the study's
    try:
        return StudyConfig.model_validate(options.over(composed(parsed, options.scale)))
    except ValidationError as error:
        name = path if options.override is None else f"{path} with {options.override}"
        reason = f"{name} is not a study; correct these keys:\n{wrong_keys(error)}"
        raise BadInputError(reason=reason) from error
    except ConfigError as error:
        raise BadInputError(reason=f"{path}: {error.data['reason']}") from error


def _no_section(option: str, section: str, study: dict[str, Any]) -> BadInputError:
    if study.get("phantoms") is not None and not section.startswith("[sats."):
        at = f"At scale {study['scale']} a study" if study.get("scale") else "This study"
        reason = f"{option}: {at} generates its images. Leave it out, or choose another scale or study."
        return BadInputError(reason=reason)
    return BadInputError(reason=f"{option}: the study has no section {section} that says how to read it.")


def _named(option: str) -> tuple[str, Path]:
    """`chest=films` is the source of [sats.chest], `films` of [sat]; a path that holds `=` is written `./a=b`."""
    name, equals, path = option.partition("=")
    return (name, Path(path)) if equals and "/" not in name else (OWN, Path(option))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise BadInputError(reason=f"--seeds {text}: write numbers like 0,1,2 or a range like 0-4.") from error
