"""New keys for one site and the revocation of another while a run goes on: real processes, the real SFTPGo.

Both restart the hub under everybody's transfers. The run goes on, every round with equal bits at all that are in it.
"""

import os
from collections.abc import Callable

import pytest

from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.states import ParticipationStatus
from hsl_model.protocol.views import NodeView, RoundView
from node_agent.enrol import load_identity
from node_agent.keys import SSH_KEY_BEFORE
from tests.e2e.alliance import Alliance
from tests.e2e.test_coming_and_going import MORE_THAN_ENOUGH, completed, fused_in
from tests.sftpgo.helpers import need_sftpgo

pytestmark = [pytest.mark.e2e, pytest.mark.sftpgo, pytest.mark.long, pytest.mark.timeout(1800)]
ROTATES, LEAVES = "site-1", "site-3"


def test_a_site_rotates_its_keys_and_another_is_revoked_while_a_run_goes_on(
    new_alliance: Callable[..., Alliance],
) -> None:
    need_sftpgo()
    rest, metrics = free_ports(2)
    program = {key: os.environ[key] for key in ("HSL_SFTPGO", "HSL_CACHE") if key in os.environ}
    alliance = new_alliance(
        hub_module="sftpgo_hub",
        hub_environment={"HSL_HUB_REST_PORT": str(rest), "HSL_HUB_METRICS_PORT": str(metrics), **program},
        coordinator_environment={"HSL_COORDINATOR_HUB_KIND": "sftpgo"},
    )
    alliance.start()
    run_id = alliance.create_run(num_rounds=MORE_THAN_ENOUGH, quorum={"min_nodes": 2, "required_nodes": (ROTATES,)})
    alliance.start_run(run_id)
    alliance.wait_until(lambda: len(completed(alliance, run_id)) >= 1, "a first round")

    before = load_identity(alliance.settings(ROTATES))
    assert alliance.site(ROTATES, "POST", "/rotate", {}).status_code == 200
    waits = alliance.settings(ROTATES).keys_folder
    alliance.wait_until(
        lambda: (
            view_of(alliance).signing_public_key != before.keys.signing_public_key
            and not (waits / "next").exists()
            and not (waits / SSH_KEY_BEFORE).exists()
        ),
        "the new keys to be in use at the hub too",
    )
    now = load_identity(alliance.settings(ROTATES))
    assert now.token != before.token
    assert now.keys.ssh_public_key != before.keys.ssh_public_key
    assert view_of(alliance).signing_public_key == now.keys.signing_public_key
    with_new_keys = newest(alliance, run_id)
    alliance.wait_until(
        lambda: newest(alliance, run_id) >= with_new_keys + 2, "two rounds more, the second all with the new keys"
    )
    assert all(fused_in([one]) == set(alliance.node_ids) for one in completed(alliance, run_id))
    peers = alliance.site(LEAVES, "GET", "/status").json()["peer_keys"]
    assert {one["node_id"]: one["how"] for one in peers}[ROTATES] == "rotated"

    alliance.post(f"/nodes/{LEAVES}/revoke")
    last_with = newest(alliance, run_id)
    alliance.wait_until(lambda: newest(alliance, run_id) >= last_with + 2, "two rounds more without the revoked site")
    alliance.post(f"/runs/{run_id}/stop")
    rounds = completed(alliance, run_id)
    assert fused_in(rounds[-1:]) == {"site-1", "site-2"}
    first_without = next(one for one in rounds if LEAVES not in fused_in([one]))
    assert {p.reason for p in first_without.participations if p.node_id == LEAVES} <= {"revoked"}
    for one in rounds:
        reported = {p.fused_digest for p in one.participations if p.status == ParticipationStatus.FUSED}
        assert reported == {one.fused_digest}, one
    events = alliance.http.get("/events", params={"limit": 500}).json()["items"]
    kinds = [event["kind"] for event in events]
    assert (kinds.count("node.keys_rotated"), kinds.count("hub.cut"), kinds.count("hub.key_set")) == (1, 1, 4)


def view_of(alliance: Alliance) -> NodeView:
    return NodeView.model_validate_json(alliance.http.get(f"/nodes/{ROTATES}").raise_for_status().content)


def newest(alliance: Alliance, run_id: str) -> int:
    found: list[RoundView] = completed(alliance, run_id)
    return found[-1].round_number if found else 0
