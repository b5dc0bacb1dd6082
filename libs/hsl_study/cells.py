"""One cell of a study's grid: a scenario, an arm, a seed. Trained by the hospitals' engine, then scored on the tests.

    partition (scenario, seed) -> train_arm (arms.py) -> each node's model on all scored images (scored.py) -> one row

The partition depends on scenario and seed alone, so that all arms of a seed see the same images; a cell that was
killed goes on where it was, since the federation does.
"""

import io
from statistics import fmean

import numpy as np
from pydantic import Field
from scipy import special

from hsl_data.split import SPLITS
from hsl_model.data import ImageSet, SiteData
from hsl_model.metrics import roc_auc
from hsl_model.protocol.config import Message, RunConfig, Sha256
from hsl_model.scoring import Logits
from hsl_study.arms import Deployment, train_arm
from hsl_study.config import ArmConfig
from hsl_study.partition import Partition
from hsl_study.pool import Pixels, Pool
from hsl_study.scored import Rows, ScoredImages, pixels_of, scored_images
from hsl_study.statistics import NodeMetrics, node_metrics


class NodeScores(NodeMetrics):
    """A node's model on its own domain, and its AUC elsewhere: pooled over all nodes' domains, pooled over the unseen
    ones, and within each domain, so that scores of different domains are not compared.
    """

    all_domain_auc: float | None
    unseen_auc: float | None = None
    domain_aucs: dict[str, float | None] = Field(default_factory=dict)


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
    validation_aucs: tuple[float | None, ...] = Field(default=(), description="mean over nodes, from round 0 on")
    nodes: dict[str, NodeScores]
    unseen_ensemble_auc: float | None = None
    mixture_ratio: float | None = Field(default=None, description="sd(mixture) / sd(skip), mean over nodes")
    scores_sha256: Sha256
    features_sha256: Sha256 | None = None
    versions: dict[str, str]
    num_threads: int
    seconds: float

    @property
    def key(self) -> tuple[str, str, int]:
        return self.scenario, self.arm, self.seed


class CellReply(Message):
    """How a cell's process ended: with a row, or stopped (None). `warnings`: what its log said, once each."""

    row: CellRow | None
    warnings: tuple[str, ...] = ()


class CellFacts(Message):
    """The part of a row that the training decides.

    `unseen_ensemble_auc`: of the mean probability of all nodes' models on the unseen domains (methods.md 1.7).
    """

    num_rounds: int
    deployed_round: int
    final_digest: Sha256
    mean_validation_auc: float | None
    validation_aucs: tuple[float | None, ...] = Field(default=(), description="mean over nodes, from round 0 on")
    nodes: dict[str, NodeScores]
    unseen_ensemble_auc: float | None = None
    mixture_ratio: float | None = None


def run_cell(
    arm: ArmConfig, config: RunConfig, partition: Partition, pool: Pool, where: Deployment
) -> tuple[CellFacts, bytes]:
    """Train, or continue; score. The second is an .npz of every test image's logits. Raises what the engine raises."""
    trained = train_arm(arm, config, site_data(pool, partition), where)
    scored = scored_images(partition)
    answers = trained.answers(pixels_of(scored, partition, pool))
    logits = {node: answer.logits for node, answer in answers.items()}
    ratios = [answer.mixture_ratio for answer in answers.values() if answer.mixture_ratio is not None]
    labels = pool.labels[scored.case]
    facts = CellFacts(
        num_rounds=trained.num_rounds,
        deployed_round=trained.deployed_round,
        final_digest=trained.final_digest,
        mean_validation_auc=trained.mean_validation_auc,
        validation_aucs=trained.validation_aucs,
        nodes={node: _scores(logits[node], labels, scored, node) for node in config.nodes},
        unseen_ensemble_auc=_ensemble_auc(logits, labels, scored.is_unseen),
        mixture_ratio=fmean(ratios) if ratios else None,
    )
    file = io.BytesIO()
    np.savez(
        file,
        case=scored.case,
        label=labels,
        group=pool.group_numbers[scored.case],
        nodes=np.array(config.nodes),
        held=np.stack([scored.own(node) for node in config.nodes]),
        domains=np.array(list(scored.domains)),
        in_domain=np.stack(list(scored.domains.values())),
        unseen=scored.is_unseen,
        logits=np.stack([logits[node] for node in config.nodes]),
    )
    return facts, file.getvalue()


def site_data(pool: Pool, partition: Partition) -> dict[str, SiteData]:
    """What each node trains, validates and tests on, as its own acquisition stores it."""
    sites = {}
    for node, cases in partition.cases.items():
        parts: dict[str, ImageSet] = {split: as_stored(node, cases[split], pool, partition) for split in SPLITS}
        sites[node] = SiteData(parts["training"], parts["validation"], parts["test"], pool.sat_at(node))
    return sites


def as_stored(node: str, positions: tuple[int, ...], pool: Pool, partition: Partition) -> ImageSet:
    """Images of the pool as the node's own acquisition stores them."""
    cases, plan = pool.subset(positions), partition.scenario.acquisitions
    if plan is None:
        return cases
    return ImageSet(plan.stored(plan.of_site[node], cases.images, pool.names_of(positions)), cases.labels)


def _scores(logits: Logits, labels: Pixels, scored: ScoredImages, node: str) -> NodeScores:
    own, unseen = scored.own(node), scored.is_unseen
    return NodeScores(
        **node_metrics(logits[own], labels[own]).model_dump(),
        all_domain_auc=roc_auc(logits[~unseen], labels[~unseen]),
        unseen_auc=roc_auc(logits[unseen], labels[unseen]),
        domain_aucs={name: roc_auc(logits[rows], labels[rows]) for name, rows in scored.domains.items()},
    )


def _ensemble_auc(logits: dict[str, Logits], labels: Pixels, rows: Rows) -> float | None:
    probabilities = np.mean([special.expit(found[rows]) for found in logits.values()], axis=0)
    return roc_auc(probabilities, labels[rows])
