"""How a node's files reach the hub and its peers' files reach the node."""

from pathlib import Path

from hsl_model.memory import keep_freed_memory
from hsl_model.protocol.messages import HubAddress
from node_agent.exchange.base import Exchange
from node_agent.exchange.pace import Pace
from node_agent.proxy import Proxy


def open_exchange(
    hub: HubAddress, ssh_key: Path, node_id: str, pace: Pace | None = None, proxy: Proxy | None = None
) -> Exchange:
    """The exchange with the hub a node enrolled with. Connects at its first use. `pace`: shared by all of a site."""
    from node_agent.exchange.sftp import SftpExchange

    keep_freed_memory()
    return SftpExchange(hub, ssh_key, node_id, pace=pace, proxy=proxy)
