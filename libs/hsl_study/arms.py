"""How the models of an arm come about, and what each node answers with them.

    federation   every node trains, all fuse                         federation.py
    pooled       a federation of one node that holds everything      pooled.py
    split        a front of the network at each node                 split_average.py
    baseline     a few fixed numbers of an image, no network         baselines.py

Whatever the kind, every node of the scenario ends with a model, so that all rows of a study have the same columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from hsl_model.checkpoint import sha256_file
from hsl_model.data import ImageSet, SiteData
from hsl_model.engine import EngineOptions
from hsl_model.metrics import roc_auc
from hsl_model.model_state import load_network
from hsl_model.protocol.config import NodeId, RunConfig
from hsl_model.protocol.convergence import best_round
from hsl_model.scoring import Logits, Scorer
from hsl_study.arm_kinds import BaselineConfig
from hsl_study.baselines import fit, models_digest
from hsl_study.config import ArmConfig
from hsl_study.federation import held_files, never, run_federation, train_apart
from hsl_study.pooled import POOLED, pooled_data, pooled_run
from hsl_study.pretraining import initial_file
from hsl_study.split_average import split_run, train_together

Pixels = npt.NDArray[np.uint8]


NUM_RATIO_IMAGES = 512


@dataclass(frozen=True)
class Answers:
    """One node's model on images (N, C, H, W): logits (N,), and sd(mixture) / sd(skip) over up to `NUM_RATIO_IMAGES` of
    them, evenly spaced, at its fixed anchors (methods.md H9); None where it has none."""

    logits: Logits
    mixture_ratio: float | None = None


@dataclass(frozen=True)
class TrainedArm:
    """`validation_aucs`: means over nodes from round 0, the initial weights, on; a baseline has a round 0 alone.
    `answers`: images (N, C, H, W) -> each node's."""

    validation_aucs: tuple[float | None, ...]
    deployed_round: int
    final_digest: str
    answers: Callable[[Pixels], dict[str, Answers]]

    @property
    def num_rounds(self) -> int:
        return len(self.validation_aucs) - 1

    @property
    def mean_validation_auc(self) -> float | None:
        return self.validation_aucs[self.deployed_round]


@dataclass(frozen=True)
class Deployment:
    """Where a federation's rounds lie, and which round's models are scored: `best` mean validation AUC, or `last`."""

    folder: Path
    options: EngineOptions
    deploy: str
    should_stop: Callable[[], bool] = never


def train_arm(arm: ArmConfig, run: RunConfig, sites: Mapping[str, SiteData], where: Deployment) -> TrainedArm:
    """Train, or continue, in `where.folder`. Raises what the engine raises."""
    where.folder.mkdir(parents=True, exist_ok=True)
    run, data = arm_work(arm, run, sites)
    holders = {node: holder_of(arm, node) for node in sites}
    if arm.baseline is not None:
        return _fitted(arm.baseline, run, data, sites, holders)
    alone = train_apart if arm.split is None else partial(train_together, arm.split)
    train = partial(alone, should_stop=where.should_stop)
    rounds = run_federation(run, data, where.folder, where.options, initial_file(where.folder), train)
    aucs = [done.mean_auc for done in rounds]
    deployed = len(rounds) - 1 if where.deploy == "last" else best_round(aucs)
    files = {holder: held_files(where.folder, holder, deployed) for holder in data}

    def answers(images: Pixels) -> dict[str, Answers]:
        found = _answers(run, files, {holder: part.sat for holder, part in data.items()}, images, where.options.device)
        return {node: found[holder] for node, holder in holders.items()}

    return TrainedArm(tuple(aucs), deployed, rounds[-1].fused_digest, answers)


def holder_of(arm: ArmConfig, node: NodeId) -> NodeId:
    """Under whose name the model lies that a node answers with."""
    return node if arm.pooled is None else POOLED


def arm_work(arm: ArmConfig, run: RunConfig, sites: Mapping[str, SiteData]) -> tuple[RunConfig, Mapping[str, SiteData]]:
    """The run that an arm is, and who trains on what: the nodes, or one that holds everything."""
    if arm.split is not None:
        return split_run(run, sites), sites
    if arm.pooled is None:
        return run, sites
    return pooled_run(run, sites, arm.pooled), {POOLED: pooled_data(sites, arm.pooled)}


def _answers(
    run: RunConfig,
    files: Mapping[str, Sequence[Path]],
    sats: Mapping[str, ImageSet | None],
    images: Pixels,
    device: str,
) -> dict[str, Answers]:
    """Of whoever holds `files`. Those with the same files and SAT have one model, which is asked once."""
    found: dict[str, Answers] = {}
    asked: dict[tuple[object, ...], Answers] = {}
    some = images[:: -(-len(images) // NUM_RATIO_IMAGES)]
    for holder, held in files.items():
        model = (*(sha256_file(path) for path in held), id(sats[holder]))
        if model not in asked:
            scorer = Scorer(run, load_network(run, held, device), sats[holder])
            asked[model] = Answers(scorer.logits(images), scorer.mixture_ratio(some))
        found[holder] = asked[model]
    return found


def _fitted(
    config: BaselineConfig,
    run: RunConfig,
    data: Mapping[str, SiteData],
    sites: Mapping[str, SiteData],
    holders: Mapping[str, str],
) -> TrainedArm:
    """The mean validation AUC is that of each node's own images, whoever the model was fitted for."""
    balanced = run.training.balanced_sampler
    models = {holder: fit(part.training, config, balanced=balanced) for holder, part in data.items()}
    own = [(models[holders[node]], site.validation) for node, site in sites.items()]
    aucs = [roc_auc(model.logits(cases.images), np.asarray(cases.labels)) for model, cases in own]
    defined = [auc for auc in aucs if auc is not None]
    return TrainedArm(
        validation_aucs=(fmean(defined) if defined else None,),
        deployed_round=0,
        final_digest=models_digest(models),
        answers=lambda images: {node: Answers(models[holder].logits(images)) for node, holder in holders.items()},
    )
