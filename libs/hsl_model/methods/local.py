"""Local learning (methods.md 4.2): every node alone. Only the initial weights are common; nothing is published, so the
whole model stays among the node's private tensors."""

from dataclasses import dataclass

from hsl_model.methods.base import Method
from hsl_model.network import Network


@dataclass(frozen=True)
class Local(Method):
    def shared_keys(self, network: Network) -> frozenset[str]:  # noqa: ARG002
        return frozenset()
