"""One cell of a study's grid: a scenario, an arm, a seed. Trained by the hospitals' engine, then scored on the tests.

    partition (scenario, seed) -> train_arm -> each node's model on every node's test images -> one row

The partition depends on scenario and seed alone, so that all arms of a seed see the same images; a cell that was
killed goes on where it was, since the federation does.
"""

import io

import numpy as np
import numpy.typing as npt

from hsl_data.split import SPLITS
from hsl_model.data import ImageSet, SiteData
from hsl_model.metrics import roc_auc
from hsl_model.protocol.config import Message, RunConfig, Sha256
from hsl_model.scoring import Logits
from hsl_study.arms import Deployment, train_arm
from hsl_study.config import ArmConfig
from hsl_study.partition import Partition
from hsl_study.pool import Pixels, Pool
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
    arm: ArmConfig, config: RunConfig, partition: Partition, pool: Pool, where: Deployment
) -> tuple[CellFacts, bytes]:
    """Train, or continue; score. The second is an .npz of every test image's logits. Raises what the engine raises."""
    trained = train_arm(arm, config, site_data(pool, partition), where)
    test = np.array(sorted({at for splits in partition.cases.values() for at in splits["test"]}), dtype=np.int64)
    held = {node: np.isin(test, partition.cases[node]["test"]) for node in config.nodes}
    logits = trained.logits(pool.images[test])
    labels = pool.labels[test]
    facts = CellFacts(
        num_rounds=trained.num_rounds,
        deployed_round=trained.deployed_round,
        final_digest=trained.final_digest,
        mean_validation_auc=trained.mean_validation_auc,
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
        sites[node] = SiteData(parts["training"], parts["validation"], parts["test"], pool.sat)
    return sites


def _scores(logits: Logits, labels: Pixels, own: npt.NDArray[np.bool_]) -> NodeScores:
    return NodeScores(**node_metrics(logits[own], labels[own]).model_dump(), all_domain_auc=roc_auc(logits, labels))
