"""From a study's file to a whole study: arms by name, and one of three scales laid under what the file says.

    smoke   generated images, seconds                                        (configs/scales.toml has the numbers)
    small   a data set at 64 pixels or less, a narrow encoder, minutes of a core for each cell
    paper   224 pixels, ResNet-18, the paper's schedule

What the file says wins over the scale. An arm given as a name is the one of configs/arms.toml; a scale may change arms
by name, where what they are about depends on it (how often is fused, for one).
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from hsl_model.protocol.errors import ConfigError
from hsl_study.config import overlaid

ScaleName = Literal["smoke", "small", "paper"]
SCALES: tuple[ScaleName, ...] = get_args(ScaleName)
_FOLDER = Path(__file__).parent / "configs"


def composed(study: Mapping[str, Any], scale: str | None = None) -> dict[str, Any]:
    """`scale` None: the file's own `scale`, or none at all. Raises `ConfigError` for an unknown arm or scale."""
    found = dict(study)
    name = scale or found.get("scale")
    found["arms"] = [_arm(arm) for arm in found.get("arms", ())]
    if name is None:
        return found
    if name not in SCALES:
        raise ConfigError(reason=f"there is no scale {name!r}; choose one of {', '.join(SCALES)}")
    under = _table("scales.toml")[name]
    scenario, arms, replaces_data = under.pop("scenario", {}), under.pop("arms", {}), "phantoms" in under
    if replaces_data:
        for source in ("data", "sat", "sats"):
            found.pop(source, None)
    if "sat" not in found:
        under.pop("sat", None)
    found = overlaid(under, found, {"scale": name})
    found["sats"] = {
        source: one if "like" in one else overlaid(under.get("sat", {}), one)
        for source, one in found.get("sats", {}).items()
    }
    found["scenarios"] = [overlaid(scenario, one) for one in found.get("scenarios", ())]
    found["arms"] = [overlaid(arm, arms.get(arm["name"], {})) for arm in found["arms"]]
    return found


def named_arms() -> dict[str, Any]:
    """Every arm of configs/arms.toml: what it is, by name."""
    return _table("arms.toml")


def _arm(given: object) -> dict[str, Any]:
    """A table, which stands for itself, or a name."""
    if isinstance(given, Mapping):
        return dict(given)
    known = named_arms()
    if not isinstance(given, str) or given not in known:
        raise ConfigError(reason=f"there is no arm {given!r}; give its table, or one of {', '.join(known)}")
    return {"name": given, **known[given]}


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((_FOLDER / name).read_text())
