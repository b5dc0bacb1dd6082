"""What an arm changes about the data: the shared anchor task, and nothing of the nodes' own images.

Pool (the same for all arms)  -> arm_pool: each node's bundle, permuted or of noise where the arm says so (arm_sat.py)
                              -> its digest into the run, its images into each node's SiteData and its scoring
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hsl_data.sat import sat_digest
from hsl_model.data import ImageSet
from hsl_model.protocol.config import NodeId
from hsl_model.seeding import generator
from hsl_study.arm_sat import ArmSat
from hsl_study.pool import Pool


def arm_pool(wanted: ArmSat, pool: Pool, nodes: Sequence[NodeId], seed: int) -> Pool:
    """The pool with the SAT of an arm. A study without the source has none, and its arms need none."""
    names = wanted.bundle_of(nodes)
    if wanted == ArmSat() or not set(names.values()) <= set(pool.sat_files):
        return pool
    bundles = {name: pool.bundle(name) for name in sorted(set(names.values()))}
    if wanted.labels == "permuted":
        bundles = {name: permuted_labels(bundle, seed) for name, bundle in bundles.items()}
    if wanted.images == "noise":
        bundles = {name: noise_images(bundle, seed) for name, bundle in bundles.items()}
    sats = {node: bundles[name] for node, name in names.items()}
    return replace(pool, sat=sats[min(sats)], sat_of=sats, sat_digest=common_digest(sats))


def permuted_labels(sat: ImageSet, seed: int) -> ImageSet:
    """The same images and counts; which image has which label is chance, and the same chance at every node."""
    return ImageSet(sat.images, sat.labels[generator(seed, "permuted SAT labels").permutation(len(sat))])


def noise_images(sat: ImageSet, seed: int) -> ImageSet:
    """Every pixel, all channels together, is drawn from all pixels of the bundle: no image tells its label."""
    count, channels, height, width = sat.images.shape
    pixels = sat.images.transpose(0, 2, 3, 1).reshape(-1, channels)
    noise = np.empty_like(sat.images)
    for at in range(count):
        drawn = pixels[generator(seed, "SAT of noise", at).integers(0, len(pixels), height * width)]
        noise[at] = drawn.reshape(height, width, channels).transpose(2, 0, 1)
    return ImageSet(noise, sat.labels)


def common_digest(sats: Mapping[NodeId, ImageSet]) -> str:
    """The bundle's digest as every node of a real run checks it; over the nodes' digests where they differ."""
    of_bundle = {id(sat): sat_digest(sat) for sat in sats.values()}
    if len(set(of_bundle.values())) == 1:
        return of_bundle.popitem()[1]
    digests = {node: of_bundle[id(sat)] for node, sat in sats.items()}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
