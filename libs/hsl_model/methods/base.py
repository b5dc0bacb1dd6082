"""The hooks of a learning method, with the behaviour of FedAvg as their defaults.

What the engine does with them (`hsl_model/engine.py`):

    network <- the start files, one over the other        # initial, the node's private tensors, the fused model
    method.begin_round(run)                                # run.network, run.memory
    for each local epoch:
        learning rate <- schedule(epochs of all rounds so far)
        for each step:
            batch  = method.select(the next balanced batch)
            output = run.network(batch.images, batch.sat_images)
            minimise method.loss(run, output, batch)       # the one backward pass of the house
            now and then: snapshot                         # weights, moments, best so far, run.memory, position
        validation AUC of method.predict(network, images, anchors); keep a copy of the best epoch
    publish the tensors method.shared_keys(network) of the best epoch; the others stay at home
    ...all peers' updates arrive, the plan is frozen...
    start of the next round <- method.fuse(node, plan, files, output)

A method is a frozen dataclass whose fields are its hyper-parameters (`hsl_model/protocol/methods.py` lists them with
their limits, the weights of its plan and what its members hold after fusion). It keeps nothing in itself: what it must
remember within a round lives in `run.memory` as named tensors, and so in the snapshot.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from hsl_model.averaging import FusedFacts, FusionInput, fuse
from hsl_model.batches import Batch
from hsl_model.losses import task_loss
from hsl_model.network import Network, NetworkOutput
from hsl_model.protocol.messages import FusionPlan


@dataclass
class LocalRun:
    """What a method works on during a round at one node."""

    network: Network
    memory: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    def shared_keys(self, network: Network) -> frozenset[str]:
        """Names of the tensors a node publishes. Default: all, running statistics included (methods.md 3)."""
        return frozenset(network.state_dict())

    def begin_round(self, run: LocalRun) -> None:
        """Called once, with the start model loaded. What is put into `run.memory` here is there at every later step."""

    def select(self, batch: Batch) -> Batch:
        """What of a batch the network and the loss see."""
        return batch

    def loss(self, run: LocalRun, output: NetworkOutput, batch: Batch) -> Tensor:  # noqa: ARG002
        """Scalar, a mean over the batch. Default: cross-entropy, half and half with the SAT's where there is one."""
        return task_loss(output, batch)

    def predict(self, network: Network, images: Tensor, anchors: Tensor | None) -> Tensor:
        """Primary logits (B,) in evaluation, each independent of the rest of the batch."""
        return network.score(images, self.partners(anchors))

    def partners(self, anchors: Tensor | None) -> Tensor | None:
        """What stands beside an image in evaluation: the anchors' features (K, 512); None: the image itself."""
        return anchors

    def fuse(self, node_id: str, plan: FusionPlan, files: Mapping[str, Path], output: Path) -> FusedFacts:  # noqa: ARG002
        """What `node_id` holds after fusion. Default: sum of weight x update over the plan, the same everywhere."""
        return fuse([FusionInput(e.node_id, files[e.node_id], e.weight) for e in plan.entries], output)
