"""One cell of a study's grid: a scenario, an arm, a seed. Trained by the hospitals' engine, then scored on the tests.

    partition (scenario, seed) -> run_federation -> each node's model on every node's test images -> one row

The partition depends on scenario and seed alone, so that all arms of a seed see the same images; a cell that was
killed goes on where it was, since the federation does.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hsl_data.split import SPLITS
from hsl_model.checkpoint import sha256_file
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions
from hsl_model.metrics import roc_auc
from hsl_model.model_state import load_network
from hsl_model.protocol.config import Message, RunConfig, Sha256
from hsl_model.protocol.convergence import best_round
from hsl_model.scoring import Logits, Scorer
from hsl_study.federation import held_files, run_federation
from hsl_study.partition import Partition
from hsl_study.pool import Pixels, Pool, Positions
from hsl_study.pretraining import initial_file
from hsl_study.statistics import NodeMetrics, node_metrics


class NodeScores(NodeMetrics):
    """A node's model on its own test images, and its AUC on those of all nodes."""

    all_domain_auc: float | None


class CellRow(Message):
    """A line of `results.jsonl`. Everything but `seconds` is the same whenever the cell is run with these versions."""

    scenario: str
    arm: str
    seed: int
    config_sha256: Sha256
    num_rounds: int
    deployed_round: int
    final_digest: Sha256
    mean_validation_auc: float | None
    nodes: dict[str, NodeScores]
    scores_sha256: Sha256
    versions: dict[str, str]
    num_threads: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        return self.scenario, self.arm, self.seed


class CellFacts(Message):
    """The part of a row that the training decides."""

    num_rounds: int
    deployed_round: int
    final_digest: Sha256
    mean_validation_auc: float | None
    nodes: dict[str, NodeScores]


def run_cell(
    config: RunConfig, partition: Partition, pool: Pool, folder: Path, options: EngineOptions, deploy: str
) -> tuple[CellFacts, bytes]:
    """Train, or continue, in `folder`; score. The second is an .npz of every test image's logits.

    `deploy`: `best` mean validation AUC, or the `last` round. Raises what the engine raises.
    """
    rounds = run_federation(config, site_data(pool, partition), folder, options, initial_file(folder))
    aucs = [done.mean_auc for done in rounds]
    deployed = len(rounds) - 1 if deploy == "last" else best_round(aucs)
    test = np.array(sorted({at for splits in partition.cases.values() for at in splits["test"]}), dtype=np.int64)
    held = {node: np.isin(test, partition.cases[node]["test"]) for node in config.nodes}
    logits = _logits(config, pool, test, folder, deployed, options)
    labels = pool.labels[test]
    facts = CellFacts(
        num_rounds=len(rounds) - 1,
        deployed_round=deployed,
        final_digest=rounds[-1].fused_digest,
        mean_validation_auc=aucs[deployed],
        nodes={node: _scores(logits[node], labels, held[node]) for node in config.nodes},
    )
    file = io.BytesIO()
    np.savez(
        file,
        case=test,
        label=labels,
        group=pool.group_numbers[test],
        nodes=np.array(config.nodes),
        held=np.stack([held[node] for node in config.nodes]),
        logits=np.stack([logits[node] for node in config.nodes]),
    )
    return facts, file.getvalue()


def site_data(pool: Pool, partition: Partition) -> dict[str, SiteData]:
    """What each node trains, validates and tests on."""
    sites = {}
    for node, cases in partition.cases.items():
        parts: dict[str, ImageSet] = {split: pool.subset(cases[split]) for split in SPLITS}
        sites[node] = SiteData(parts["training"], parts["validation"], parts["test"], pool.sat_at(node))
    return sites


def _logits(
    config: RunConfig, pool: Pool, test: Positions, folder: Path, deployed: int, options: EngineOptions
) -> dict[str, Logits]:
    """Each node's model on all test images. Nodes with the same files and SAT have one model, which is asked once."""
    images = pool.images[test]
    found: dict[str, Logits] = {}
    asked: dict[tuple[object, ...], Logits] = {}
    for node in config.nodes:
        files = held_files(folder, node, deployed)
        sat = pool.sat_at(node)
        model = (*(sha256_file(path) for path in files), id(sat))
        if model not in asked:
            asked[model] = Scorer(config, load_network(config, files, options.device), sat).logits(images)
        found[node] = asked[model]
    return found


def _scores(logits: Logits, labels: Pixels, own: npt.NDArray[np.bool_]) -> NodeScores:
    return NodeScores(**node_metrics(logits[own], labels[own]).model_dump(), all_domain_auc=roc_auc(logits, labels))
