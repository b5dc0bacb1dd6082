"""FedBN: Li et al., "FedBN: Federated learning on non-IID features via local batch normalization", ICLR 2021,
arXiv 2102.07623; methods.md 4.6.

    fused = 1/n sum_k update_k                 over everything but batch normalisation

Scale, shift and running statistics of every batch-norm layer stay at home, found by module type: names such as
`downsample.1` would escape a search for "bn". On a network without batch norm it is Swarm.
"""

from dataclasses import dataclass

from hsl_model.methods.base import Method
from hsl_model.network import Network


@dataclass(frozen=True)
class FedBN(Method):
    def shared_keys(self, network: Network) -> frozenset[str]:
        return frozenset(network.state_dict()) - network.normalisation_tensors()
