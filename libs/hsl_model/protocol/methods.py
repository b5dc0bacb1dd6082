"""The registry of learning methods: what coordinator and daemon must know without importing torch.

One line a method. The hooks and the documentation of each stand in `hsl_model/methods/<name>.py`; a house test holds
the fields of its dataclass against `options` here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.states import Fused

OptionValue = bool | int | float | str


@dataclass(frozen=True)
class Number:
    """A hyper-parameter that is a number in [minimum, maximum]."""

    default: float
    minimum: float = 0.0
    maximum: float = float("inf")

    def check(self, value: OptionValue) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(reason=f"expected a number, got {value!r}")
        if not self.minimum <= value <= self.maximum:
            raise ConfigError(reason=f"{value} is outside [{self.minimum}, {self.maximum}]")
        return float(value)


@dataclass(frozen=True)
class Choice:
    """A hyper-parameter that is one of a few words or booleans; the first is the default."""

    choices: tuple[bool | str, ...]

    @property
    def default(self) -> bool | str:
        return self.choices[0]

    def check(self, value: OptionValue) -> OptionValue:
        if value not in self.choices or type(value) is not type(self.default):
            raise ConfigError(reason=f"{value!r} is not one of {', '.join(map(repr, self.choices))}")
        return value


@dataclass(frozen=True)
class MethodFacts:
    summary: str
    fused: Fused = Fused.COMMON
    weighting: Literal["uniform", "cases"] = "uniform"
    default_architecture: Literal["mmoe", "trunk", "plain"] = "plain"
    options: Mapping[str, Number | Choice] = field(default_factory=dict)
    shares_style: bool = False  # manifests tell a site's style; only a study hands styles on, agents refuse the run


METHODS: Mapping[str, MethodFacts] = {
    "hsl": MethodFacts(
        "HeteroSync Learning: primary task and shared anchor task through one MMoE, equal weights",
        default_architecture="mmoe",
        options={"sat_weight": Number(0.5, 0.0, 1.0), "use_sat": Choice((True, False))},
    ),
    "local": MethodFacts("every node alone, after common initial weights", fused=Fused.NONE),
    "fedavg": MethodFacts("average weighted by training cases", weighting="cases"),
    "swarm": MethodFacts("average with equal weights (Swarm Learning's merge)"),
    "personalised": MethodFacts(
        "own share of the own model, the rest the mean of the others'",
        fused=Fused.OWN,
        options={"own_share": Number(0.5, 0.0, 1.0)},
    ),
    "fedprox": MethodFacts("FedAvg with a proximal term", weighting="cases", options={"mu": Number(0.01)}),
    "fedbn": MethodFacts("equal weights; batch normalisation stays at home"),
    "styled": MethodFacts(
        "equal weights; images are shown as other sites would have stored them (studies only)",
        options={
            "consist": Choice(("none", "anchors", "own")),
            "weight": Number(1.0, 0.0, 1000.0),
            "restyle_own": Choice((True, False)),
        },
        shares_style=True,
    ),
}


def method_facts(name: str) -> MethodFacts:
    if name not in METHODS:
        raise ConfigError(reason=f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]


def refuse_outside_studies(name: str) -> None:
    """Raises `ConfigError` for a method that coordinator and agents do not carry out, rather than run another one."""
    if method_facts(name).shares_style:
        raise ConfigError(
            reason=f"method {name} runs in studies only (hsl study): agents do not hand on the styles of the sites"
        )


def checked_options(name: str, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """All options of the method, the given ones checked, the rest at their defaults. Raises `ConfigError`."""
    known = method_facts(name).options
    if unknown := sorted(set(given) - set(known)):
        allowed = ", ".join(known) or "none"
        raise ConfigError(reason=f"method {name!r} has no option {', '.join(unknown)}; its options: {allowed}")
    checked: dict[str, OptionValue] = {}
    for option, rule in known.items():
        try:
            checked[option] = rule.check(given[option]) if option in given else rule.default
        except ConfigError as error:
            raise ConfigError(reason=f"option {option!r} of method {name!r}: {error.data['reason']}") from error
    return checked
