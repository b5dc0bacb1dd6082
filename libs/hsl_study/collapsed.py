"""Trainings that ended with one answer for every image: their AUC of 0.5 would pass for a bad method in a mean."""

from collections import defaultdict

from hsl_model.metrics import is_one_answer
from hsl_study.results import CellScores, Results
from hsl_study.tables import TextTable, scenario_names


def collapsed_table(results: Results) -> TextTable:
    """Cells in which a node's model gives all images that it was scored on the same logit; seeds of an arm together."""
    grouped: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for scenario in scenario_names(results):
        for arm in results.config.arms:
            for seed, scores in results.scores(scenario, arm.name).items():
                if num_nodes := _num_constant(scores):
                    grouped[scenario, arm.name, num_nodes].append(seed)
    lines = [
        (scenario, arm, ", ".join(map(str, seeds)), str(num_nodes))
        for (scenario, arm, num_nodes), seeds in grouped.items()
    ]
    title = "Collapsed: a model that gives every image the same answer; these cells are in all means"
    return TextTable(title, ("scenario", "arm", "seeds", "nodes"), tuple(lines))


def _num_constant(scores: CellScores) -> int:
    return sum(is_one_answer(of_node) for of_node in scores.logits)
