"""What a cell's encoders make of test images, before the first round and in the deployed models: for t-SNE and numbers.

    features/<key>.npz    nodes (K,) · node (M,) its number · label (M,) · before, after (M, 512)

Each node's own model sees at most `IMAGES_OF_A_NODE` of its own test images, the same ones in every arm of a seed.
"""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from hsl_data.split import keyed_number
from hsl_model.data import ImageSet
from hsl_model.model_state import load_network
from hsl_model.protocol.config import NodeId, RunConfig
from hsl_model.scoring import features
from hsl_study.arms import Deployment, holder_of
from hsl_study.cells import as_stored
from hsl_study.config import ArmConfig
from hsl_study.federation import held_files
from hsl_study.partition import Partition
from hsl_study.pool import Pool

IMAGES_OF_A_NODE = 200  # methods.md 4.20


def collected(
    arm: ArmConfig, config: RunConfig, partition: Partition, pool: Pool, where: Deployment, deployed: int
) -> bytes | None:
    """The .npz of a cell that has been trained in `where.folder` and whose models are still there.

    None for an arm without a network. Where one holds all images, its network answers for every node.
    """
    holders = {node: holder_of(arm, node) for node in config.nodes}
    if not all(held_files(where.folder, holder, at) for holder in holders.values() for at in (0, deployed)):
        return None
    torch.set_num_threads(where.options.num_threads)
    cases = {node: _chosen(partition.cases[node]["test"], pool, config.seed) for node in config.nodes}
    tests = {node: as_stored(node, cases[node], pool, partition) for node in config.nodes}
    found = {
        name: [_of(config, tests[node], where, (holder, at), pool.sat_at(holder)) for node, holder in holders.items()]
        for name, at in (("before", 0), ("after", deployed))
    }
    file = io.BytesIO()
    np.savez(
        file,
        nodes=np.array(config.nodes),
        node=np.repeat(np.arange(len(config.nodes)), [len(cases[node]) for node in config.nodes]),
        label=np.concatenate([tests[node].labels for node in config.nodes]),
        before=np.concatenate(found["before"]),
        after=np.concatenate(found["after"]),
    )
    return file.getvalue()


def _chosen(test: Sequence[int], pool: Pool, seed: int) -> tuple[int, ...]:
    drawn = sorted(test, key=lambda at: keyed_number(seed, "features", pool.cases[at].name))
    return tuple(sorted(drawn[:IMAGES_OF_A_NODE]))


def _of(
    config: RunConfig, test: ImageSet, where: Deployment, model: tuple[NodeId, int], sat: ImageSet | None
) -> npt.NDArray[np.float32]:
    """`model`: whose, and after which round."""
    network = load_network(config, held_files(where.folder, *model), where.options.device)
    return features(config, network, test.images, sat)
