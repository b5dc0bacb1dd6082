"""Who sends what, beside the bodies: paths and headers of the coordinator's API that both sides must spell alike."""

import secrets

API = "/api/v1"
BOOT_NUMBER_HEADER = "X-HSL-Boot"  # raised at each start of an agent, kept in its journal
BOOT_ID_HEADER = "X-HSL-Boot-Id"  # drawn at each start: tells two live agents with one identity apart
LEDGER_HEADER = "X-HSL-Ledger"  # on every reply to a node: which ledger answered, and how far it is (`ledger.Mark`)

ENROL = f"{API}/enrol"
HUB_PLACE = f"{API}/enrol/hub"  # the one thing told to somebody without a code or a token
DESIRED = f"{API}/node/desired"
ROTATE = f"{API}/node/rotate"
HUB = f"{API}/node/hub"
HEARTBEAT = f"{API}/node/heartbeat"
PUBLISHED = f"{API}/node/published"
RECORDS = f"{API}/node/records"
TOKEN_PREFIX = "hsln_"  # noqa: S105 - a prefix by which leaked tokens are found


def new_token(node_id: str) -> str:
    return f"{TOKEN_PREFIX}{node_id}_{secrets.token_urlsafe(32)}"


def accept(run_id: str) -> str:
    return f"{API}/node/runs/{run_id}/accept"


def withdraw(run_id: str) -> str:
    return f"{API}/node/runs/{run_id}/withdraw"


def announce(run_id: str, round_number: int) -> str:
    return f"{API}/node/runs/{run_id}/rounds/{round_number}/announce"


def refusals(run_id: str, round_number: int) -> str:
    return f"{API}/node/runs/{run_id}/rounds/{round_number}/refusals"


def fusion(run_id: str, round_number: int) -> str:
    return f"{API}/node/runs/{run_id}/rounds/{round_number}/fusion"
