"""The networks: `build_network`, `initialise`, and scoring with anchors."""

from hsl_model.network.anchors import choose_anchors
from hsl_model.network.initial import initialise
from hsl_model.network.network import Network, NetworkOutput, build_network

__all__ = ["Network", "NetworkOutput", "build_network", "choose_anchors", "initialise"]
