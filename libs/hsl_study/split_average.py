"""SplitAVG: Zhang et al., "SplitAVG: a heterogeneity-aware federated deep learning method for medical imaging", IEEE
Journal of Biomedical and Health Informatics, 2022, arXiv 2107.02375; methods.md 4.8.

The network is cut. Node k has a front f_k of its own, up to and including the cut; the back g is one for all. A step:

    a_k = f_k(x_k)                equal batches at all nodes, the same that every other arm of the seed draws
    z = g([a_1; ...; a_K])        so batch norm in g and the loss see the union of the nodes' batches
    L = mean of BCE over all K B rows; its gradient goes through g into every f_k

It needs a line with low latency at every step, so it runs only in simulation: one graph in one process, in the engine's
loop (`workplace.py`). AdamW treats every number for itself, so one optimiser is the same as one for g and one for each
f_k. Fronts are never averaged; node k deploys g(f_k(x)), in the files of a node that keeps tensors at home.

Inferred or chosen here, because the published code does not do what the paper says or has nothing to say:
the gradient of the chain rule (the official code averages gradients by row number and hands a tensor of ones to the
fronts); ResNet-18 and AdamW with the study's schedule, sampler and steps instead of ResNet-34 and SGD; the
moments begin anew every round, as in all arms; the epoch that is kept has the best mean of the nodes' validation AUCs.
Where nodes have unequal epochs, all have the longest, the smaller ones repeating cases.
"""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor, nn

from hsl_model.batches import Batch, PairLoader
from hsl_model.checkpoint import read_tensors, write_tensors
from hsl_model.data import SiteData
from hsl_model.engine import EngineOptions, RoundResult, RoundSpec, train_at
from hsl_model.model_state import load_network
from hsl_model.network import Network, build_network
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.messages import ValidationMetrics
from hsl_model.results import work_identity
from hsl_model.sampler import num_images
from hsl_model.scoring import Scorer
from hsl_study.arm_kinds import SplitConfig
from hsl_study.federation import NodeWork, never

FRONTS: Mapping[str, tuple[str, ...]] = {"conv1": ("conv1",), "layer1": ("conv1", "bn1", "layer1")}
"""Parts of the backbone that every node has of its own, by cut. Batch norm behind the cut is the back's."""
_FRONT_NAME = re.compile(r"(.+)\.of_site\.(\d+)\.(.+)")
Value = TypeVar("Value")
logger = logging.getLogger(__name__)


def split_run(run: RunConfig, sites: Mapping[str, SiteData]) -> RunConfig:
    """The run with equal steps at all nodes. Raises `ConfigError` for what SplitAVG cannot be."""
    if run.method.name != "swarm" or run.architecture not in ("plain", "trunk") or run.shows_sat:
        raise ConfigError(reason="a split arm is a method of its own, for one encoder and no SAT: method swarm, plain")
    settings = run.training
    lengths = [
        num_images(settings.images_per_epoch, len(s.training), len(s.sat) if s.sat else 0) for s in sites.values()
    ]
    return run.model_copy(update={"training": settings.model_copy(update={"images_per_epoch": max(lengths)})})


def train_together(
    config: SplitConfig,
    nodes: Sequence[NodeWork],
    options: EngineOptions,
    should_stop: Callable[[], bool] = never,
) -> dict[str, RoundResult]:
    """A round of all nodes; each publishes the same back and keeps its front."""
    if options.micro_batch_size is not None:
        raise ConfigError(reason="a split arm cannot train in micro-batches: its rows belong to sites by their place")
    first, place = nodes[0], AllSites(nodes, config, options)
    steps = place.batches().steps_per_epoch * first.spec.config.training.local_epochs
    crossed = 2 * steps * first.spec.config.training.batch_size * cut_bytes(first.spec.config, config.cut)
    logger.info("cut after %s: %.3f GB would cross each site's border this round", config.cut, crossed / 1e9)
    result = train_at(
        place, first.workspace / "together", options, should_stop=should_stop, progress=lambda _done, _total: None
    )
    tensors = read_tensors(result.shared.path)
    found = {}
    for index, node in enumerate(nodes):
        front, back = parted(tensors, index)
        node.workspace.mkdir(parents=True, exist_ok=True)
        shared = write_tensors(node.workspace / "shared.safetensors", back)
        private = write_tensors(node.workspace / "private.safetensors", front)
        found[node.spec.node_id] = RoundResult(shared, private, result.metrics, len(node.data.training))
    return found


class BySite(nn.Module):
    """One module a site. Rows come in equal parts, one after the other, as the joint batches have them."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.of_site = nn.ModuleList(modules)

    def forward(self, rows: Tensor) -> Tensor:
        parts = rows.chunk(len(self.of_site))
        return torch.cat([module(part) for module, part in zip(self.of_site, parts, strict=True)])


def joint_network(networks: Sequence[Network], cut: str) -> Network:
    """The first network with every site's front in place of its own; the other networks' backs are forgotten."""
    backbones = [network.get_submodule("primary_encoder.backbone") for network in networks]
    for name in FRONTS[cut]:
        setattr(backbones[0], name, BySite([backbone.get_submodule(name) for backbone in backbones]))
    return networks[0]


def parted(tensors: Mapping[str, Value], index: int) -> tuple[dict[str, Value], dict[str, Value]]:
    """Of a joint network's tensors, site `index`'s front and the back, both under the names of an ordinary network."""
    front: dict[str, Value] = {}
    back: dict[str, Value] = {}
    for name, tensor in tensors.items():
        found = _FRONT_NAME.fullmatch(name)
        if found is None:
            back[name] = tensor
        elif int(found[2]) == index:
            front[f"{found[1]}.{found[3]}"] = tensor
    return front, back


def cut_bytes(run: RunConfig, cut: str) -> int:
    """Of one image's activations at the cut, float32; the gradient that comes back has as many."""
    found: list[int] = []
    with torch.device("meta"):
        network = build_network(run.network, run.architecture, run.task.channels)
        image = torch.zeros(2, run.task.channels, run.task.height, run.task.width)
        last = network.get_submodule(f"primary_encoder.backbone.{FRONTS[cut][-1]}")
        last.register_forward_hook(lambda _module, _given, output: found.append(math.prod(output.shape[1:])))
        network(image, None)
    return 4 * found[0]


@dataclass(frozen=True)
class JointBatches:
    """The nodes' batches of a step, one after the other."""

    loaders: Sequence[PairLoader]

    @property
    def steps_per_epoch(self) -> int:
        return self.loaders[0].steps_per_epoch

    def epoch_of_run(self, epoch: int, step: int) -> int:
        return self.loaders[0].epoch_of_run(epoch, step)

    def batch(self, epoch: int, step: int) -> Batch:
        batches = [loader.batch(epoch, step) for loader in self.loaders]
        return Batch(torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches]))


@dataclass(frozen=True)
class AllSites:
    """A workplace of all nodes. It goes by the first node's name where one is asked for, as in the dropout stream."""

    nodes: Sequence[NodeWork]
    config: SplitConfig
    options: EngineOptions

    @property
    def spec(self) -> RoundSpec:
        return self.nodes[0].spec

    @property
    def num_cases(self) -> int:
        return sum(len(node.data.training) for node in self.nodes)

    def identity(self) -> str:
        parts = [self.config.cut, *(work_identity(node.spec, node.data, node.start) for node in self.nodes)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def style(self) -> None:
        """Method swarm shares none."""

    def network(self) -> Network:
        return joint_network([self._held(node) for node in self.nodes], self.config.cut)

    def batches(self) -> JointBatches:
        device, cached = self.options.device, self.options.cache_on_device
        return JointBatches([PairLoader(node.spec, node.data, device, cached=cached) for node in self.nodes])

    def validate(self, network: Network, each_batch: Callable[[], None]) -> ValidationMetrics:
        """Means over the nodes, each with its own front on its own images; undefined ones do not count."""
        found = []
        for index, node in enumerate(self.nodes):
            own = self._held(node)
            front, back = parted(network.state_dict(), index)
            own.load_state_dict(front | back)
            found.append(Scorer(node.spec.config, own, node.data.sat).metrics(node.data.validation, each_batch))
        aucs = [metrics.auc for metrics in found if metrics.auc is not None]
        losses = [metrics.loss for metrics in found if metrics.loss is not None]
        return ValidationMetrics(
            auc=fmean(aucs) if aucs else None,
            loss=fmean(losses) if losses else None,
            num_cases=sum(metrics.num_cases for metrics in found),
        )

    def _held(self, node: NodeWork) -> Network:
        return load_network(node.spec.config, node.start, self.options.device)
