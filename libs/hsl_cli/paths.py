"""Where the admin's resources live on the coordinator. What a person typed is quoted, so it stays one segment."""

from urllib.parse import quote

from hsl_model.protocol.transport import API

RUNS = f"{API}/runs"
NODES = f"{API}/nodes"
LEDGER = f"{API}/ledger"
EVENTS = f"{API}/events"


def run_path(run_id: str) -> str:
    return f"{RUNS}/{quote(run_id, safe='')}"


def node_path(node_id: str) -> str:
    return f"{NODES}/{quote(node_id, safe='')}"


def site_run_path(run_id: str) -> str:
    """On the site API, not the coordinator's."""
    return f"/runs/{quote(run_id, safe='')}"
