"""What the coordinator, the node agent and the studies share: the protocol, the network, the methods and fusion."""
