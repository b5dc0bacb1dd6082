"""When a run ends and which round is deployed: pure functions of the mean validation AUC after each fusion.

A_r is the mean over nodes after the fusion of round r; index 0 is round 0, the initial weights, which is no fusion.
Round r is a plateau if A_r - max(A_q, 1 <= q < r) < min_improvement (methods.md 1.8). A round whose mean is undefined
(no node's validation set has both classes) is neither a plateau nor an improvement: it is passed over.
"""

from collections.abc import Sequence

from hsl_model.protocol.config import ConvergenceConfig


def should_stop(
    mean_aucs: Sequence[float | None], config: ConvergenceConfig, num_rounds: int
) -> tuple[bool, str | None]:
    """Whether the round that gave the last entry was the run's last, and the sentence that says why."""
    num_fusions = len(mean_aucs) - 1
    if num_fusions >= num_rounds:
        return True, f"reached its limit of {num_rounds} rounds"
    if not config.enabled or num_fusions < config.min_rounds:
        return False, None
    if num_plateaus(mean_aucs, config.min_improvement) < config.patience:
        return False, None
    return True, (
        f"converged: {config.patience} fusions in a row improved the mean validation AUC "
        f"by less than {config.min_improvement:g}"
    )


def num_plateaus(mean_aucs: Sequence[float | None], min_improvement: float) -> int:
    """How many fusions in a row, counted back from the last, were plateaus."""
    best: float | None = None
    count = 0
    for auc in mean_aucs[1:]:
        if auc is None:
            continue
        count = count + 1 if best is not None and auc - best < min_improvement else 0
        best = auc if best is None else max(best, auc)
    return count


def best_round(mean_aucs: Sequence[float | None]) -> int:
    """The round to deploy: the fusion with the largest mean AUC, the earliest of equals.

    The initial weights (0) only while no fusion has a mean.
    """
    best = 0
    for round_number, auc in enumerate(mean_aucs):
        if round_number == 0 or auc is None:
            continue
        best_auc = mean_aucs[best] if best else None
        if best_auc is None or auc > best_auc:
            best = round_number
    return best
