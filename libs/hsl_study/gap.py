"""How far an arm has come from one reference to another: from Swarm, nothing shared but weights, to site x class
Central, nothing kept apart.

    fraction of a seed = (arm - lower) / (upper - lower)       all three trained on the partition of that seed

Undefined in a seed whose upper reference is not above the lower one: there is no way to go. A small gap makes a seed's
fraction large and noisy, so the quotient of the means over all seeds stands beside the mean of the fractions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hsl_study.statistics import mean_and_sd

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class GapShare:
    """`fractions`: of the seeds that all three arms have, None where undefined. `of_means`: over the same seeds."""

    fractions: dict[int, float | None]
    of_means: float | None

    def text(self) -> str:
        defined = [value for value in self.fractions.values() if value is not None]
        total = len(self.fractions)
        if not total:
            return "undefined: no seed has the arm and both references"
        if not defined:
            return f"undefined: the upper reference is above the lower in none of {total} seeds"
        mean, sd = mean_and_sd(defined)
        found = f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"
        of_means = "undefined" if self.of_means is None else f"{self.of_means:.2f}"
        missing = f"; {total - len(defined)} of {total} seeds undefined" if len(defined) < total else ""
        return f"{found} (of the means {of_means}{missing})"


def gap_share(arm: BySeed, lower: BySeed, upper: BySeed) -> GapShare:
    """AUCs by seed of the arm and of both references."""
    seeds = sorted(arm.keys() & lower.keys() & upper.keys())
    gained = {seed: arm[seed] - lower[seed] for seed in seeds}
    whole = {seed: upper[seed] - lower[seed] for seed in seeds}
    total = sum(whole.values())
    return GapShare(
        fractions={seed: gained[seed] / whole[seed] if whole[seed] > 0 else None for seed in seeds},
        of_means=sum(gained.values()) / total if total > 0 else None,
    )
