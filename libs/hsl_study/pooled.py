"""Central learning (methods.md 4.1): one node that holds what all nodes hold, trained by the same engine.

Training, validation and test images are joined split by split, so what a node validates or tests on is still never
trained on. The epochs and the schedule are the federation's; the steps are one site's or all sites' together. An image
that two nodes share (label skew) counts twice, as it does in a federation.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hsl_model.data import ImageSet, SiteData
from hsl_model.protocol.config import RunConfig
from hsl_model.sampler import num_images, num_steps
from hsl_study.arm_kinds import PooledConfig

POOLED = "pooled"
"""The one node's name. It keys the random streams, so a federation of one node of this name draws the same batches."""


def pooled_data(sites: Mapping[str, SiteData], config: PooledConfig) -> SiteData:
    """Sites in the order of their names."""
    parts = [sites[node] for node in sorted(sites)]
    training = joined([part.training for part in parts], keep_sites=config.sampler == "site-class")
    validation, test = joined([part.validation for part in parts]), joined([part.test for part in parts])
    return SiteData(training, validation, test, parts[0].sat)


def joined(parts: Sequence[ImageSet], *, keep_sites: bool = False) -> ImageSet:
    sites = np.repeat(np.arange(len(parts)), [len(part) for part in parts]) if keep_sites else None
    return ImageSet(
        np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]), sites
    )


def pooled_run(run: RunConfig, sites: Mapping[str, SiteData], config: PooledConfig) -> RunConfig:
    """The run of the one node, with as many steps an epoch as `config` asks for."""
    settings = run.training
    num_sat = [len(site.sat) if site.sat is not None else 0 for site in sites.values()]
    lengths = [
        num_images(settings.images_per_epoch, len(site.training), sat)
        for site, sat in zip(sites.values(), num_sat, strict=True)
    ]
    wanted, every = max(lengths), settings.fuse_every_steps
    if config.steps == "all-sites":
        every = every and every * len(sites)
        steps, wanted = sum(num_steps(length, settings.batch_size) for length in lengths), sum(lengths)
        if num_steps(wanted, settings.batch_size) != steps:  # every site has a last batch that is not full
            wanted = steps * settings.batch_size
    training = settings.model_copy(update={"images_per_epoch": wanted, "fuse_every_steps": every})
    return run.model_copy(update={"nodes": (POOLED,), "training": training})
