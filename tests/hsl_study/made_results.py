"""A study's folder filled with rows and scores that were made up, not trained: tables and figures are tested on it."""

import hashlib
import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from hsl_model.metrics import roc_auc
from hsl_study.cells import CellRow, NodeScores
from hsl_study.config import StudyConfig
from hsl_study.folder import Key, StudyFolder
from hsl_study.results import Results
from hsl_study.statistics import node_metrics

TASK = {
    "task_id": "fracture",
    "positive_class": "fractured",
    "negative_class": "intact",
    "modality": "radiograph",
    "height": 16,
    "width": 16,
}
NODES = ("clinic-a", "clinic-b")
IMAGES_OF_A_NODE = 24
SideFile = Callable[[Key], bytes | None]
Scorer = Callable[[Key, np.ndarray, np.random.Generator], np.ndarray]  # key, labels -> logits


def config(**changes: Any) -> StudyConfig:
    given = {
        "name": "made-up",
        "task": TASK,
        "phantoms": {},
        "seeds": "0-3",
        "scenarios": [{"kind": "given", "nodes": dict.fromkeys(NODES, (12, 12))}],
        "arms": [{"name": name, "run": {"method": {"name": name}}} for name in ("hsl", "swarm", "local")],
        "contrasts": [("hsl", "swarm")],
        "run": {"num_rounds": 3},
    }
    return StudyConfig.model_validate({**given, **changes})


def better_by(strength: dict[str, float]) -> Scorer:
    """Logits whose positive class lies `strength[arm]` above the noise."""

    def logits(key: Key, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return strength.get(key[1], 1.0) * labels + random.normal(0, 1, labels.shape)

    return logits


def nothing(_key: Key) -> None:
    return None


def fill(
    folder: Path,
    study: StudyConfig,
    scorer: Scorer,
    skip: Collection[Key] = (),
    features: SideFile = nothing,
    num_unseen: int = 0,
) -> Results:
    """Every cell but those of `skip`. Test images are the same for all arms of a seed, and other ones in each seed;
    `num_unseen` more lie at no node."""
    made = StudyFolder.create(study, folder)
    for name in ("scores", "features"):
        (folder / name).mkdir()
    for scenario in study.scenarios:
        for arm in study.arms:
            for seed in study.seeds:
                key = (scenario.title, arm.name, seed)
                if key not in skip:
                    _finish(made, key, scorer, features(key), num_unseen)
    return Results(made)


def _finish(folder: StudyFolder, key: Key, scorer: Scorer, features: bytes | None, num_unseen: int) -> None:
    num_images = IMAGES_OF_A_NODE * len(NODES) + num_unseen
    labels = (np.arange(num_images) % 2).astype(np.uint8)
    held = np.zeros((len(NODES), num_images), bool)
    for at in range(len(NODES)):
        held[at, at * IMAGES_OF_A_NODE : (at + 1) * IMAGES_OF_A_NODE] = True
    unseen = ~held.any(axis=0)
    random = np.random.default_rng([*map(ord, "/".join(map(str, key)))])
    logits = np.stack([scorer(key, labels, random) for _ in NODES]).astype(np.float32)
    file = io.BytesIO()
    groups = np.arange(num_images) + 10 * key[2]
    np.savez(file, label=labels, group=groups, nodes=np.array(NODES), held=held, logits=logits, unseen=unseen)
    folder.scores(key).write_bytes(file.getvalue())
    if features is not None:
        folder.features(key).write_bytes(features)
    nodes = {
        node: NodeScores(
            **node_metrics(logits[at, held[at]], labels[held[at]]).model_dump(),
            all_domain_auc=roc_auc(logits[at, ~unseen], labels[~unseen]),
            unseen_auc=roc_auc(logits[at, unseen], labels[unseen]),
            domain_aucs={"unseen-population": roc_auc(logits[at, unseen], labels[unseen])} if num_unseen else {},
        )
        for at, node in enumerate(NODES)
    }
    digests = dict.fromkeys(("config_sha256", "final_digest"), "0" * 64)
    row = CellRow(
        scenario=key[0], arm=key[1], seed=key[2], num_rounds=3, deployed_round=3, mean_validation_auc=0.7,
        validation_aucs=(None, 0.6, 0.65 + key[2] / 100, 0.7), nodes=nodes, versions={"python": "3"}, num_threads=1,
        seconds=1.0, scores_sha256=hashlib.sha256(file.getvalue()).hexdigest(),
        features_sha256=None if features is None else hashlib.sha256(features).hexdigest(), **digests,
    )  # fmt: skip
    folder.cell(key).mkdir(parents=True)
    folder.finish(row)
