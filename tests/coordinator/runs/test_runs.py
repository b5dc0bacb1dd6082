"""The admin's API of runs: created, listed, shown, started; everything else is in tests/coordinator/rounds."""

import pytest

from hsl_model.protocol.transport import API
from hsl_model.protocol.views import Page, RoundView, RunView
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import NODES, Federation, Site, enrolled, run_config, sha


@pytest.fixture
def federation(alliance: Alliance) -> Federation:
    """On both databases."""
    return enrolled(alliance)


@pytest.fixture
def on_sqlite(sqlite_alliance: Alliance) -> Federation:
    return enrolled(sqlite_alliance)


def test_a_new_run_is_a_draft_that_invites_its_nodes(on_sqlite: Federation) -> None:
    on_sqlite.create(name="pilot")
    run = on_sqlite.run
    assert (run.status, run.name, run.round_number) == ("draft", "pilot", None)
    assert [(member.node_id, member.status, member.counts) for member in run.members] == [
        (node_id, "invited", None) for node_id in NODES
    ]
    wish = on_sqlite["node-a"].desired()
    assert wish.assignment is None
    assert [invitation.config for invitation in wish.invitations] == [run.config]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"num_round": 3}, "num_round"),
        ({"quorum": {"min_node": 2}}, "quorum.min_node"),
        ({"quorum": {"min_nodes": 9}}, "min_nodes"),
        ({"method": {"name": "nonsense"}}, "method"),
        ({"training": {"batch_size": 1}}, "training.batch_size"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_the_path_of_its_key(
    on_sqlite: Federation, change: dict, path: str
) -> None:
    body = {**run_config().model_dump(mode="json"), **change}
    reply = on_sqlite.alliance.admin.post(f"{API}/runs", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "request_invalid")
    assert path in reply.json()["detail"]


def test_a_method_of_studies_is_refused(on_sqlite: Federation) -> None:
    """Its members would need each other's styles, which agents do not hand on."""
    reply = on_sqlite.alliance.admin.post(f"{API}/runs", run_config(method={"name": "styled"}))
    assert (reply.status_code, reply.json()["code"]) == (422, "config_invalid")
    assert "method styled runs in studies only" in reply.json()["detail"]


def test_only_nodes_that_exist_and_are_not_revoked_are_invited(on_sqlite: Federation) -> None:
    on_sqlite.revoke("node-c")
    body = run_config(nodes=("node-a", "node-c", "node-x"))
    reply = on_sqlite.alliance.admin.post(f"{API}/runs", body)
    assert (reply.status_code, reply.json()["code"]) == (422, "node_not_invitable")
    assert reply.json()["detail"].startswith("node-c, node-x:")


def test_a_run_starts_with_a_quorum_of_members_and_says_who_has_not_accepted(federation: Federation) -> None:
    federation.create(quorum={"min_nodes": 2, "required_nodes": ("node-c",), "min_cases": 240})
    path = f"{API}/runs/{federation.run_id}/start"
    for node_id, missing in (("node-a", "1 of at least 2"), ("node-b", "required node-c")):
        federation[node_id].accept(federation.run_id)
        reply = federation.alliance.admin.post(path)
        assert (reply.status_code, reply.json()["code"]) == (409, "quorum_not_accepted")
        assert missing in reply.json()["detail"]
        assert "node-c" in reply.json()["detail"]
    federation["node-c"].accept(federation.run_id)
    assert federation.move("start").status == "running"
    assert federation.run.round_number == 0


def test_the_counts_of_the_truth_report_are_shown(on_sqlite: Federation) -> None:
    on_sqlite.create()
    on_sqlite["node-b"].accept(on_sqlite.run_id)
    counts = {member.node_id: member.counts for member in on_sqlite.run.members}
    assert counts["node-a"] is None
    assert counts["node-b"] is not None
    assert counts["node-b"].training.positive == 60


def test_a_site_with_another_anchor_task_is_not_a_member(on_sqlite: Federation) -> None:
    on_sqlite.create(method={"name": "hsl"}, sat_digest=sha("sat"))
    site: Site = on_sqlite["node-a"]
    for found in (None, sha("another")):
        reply = site.accept(on_sqlite.run_id, found)
        assert (reply.status_code, reply.json()["code"]) == (422, "sat_digest_mismatch")
    assert site.accept(on_sqlite.run_id, sha("sat")).is_success


def test_only_invited_nodes_accept(on_sqlite: Federation) -> None:
    on_sqlite.create(nodes=("node-a", "node-b"))
    reply = on_sqlite["node-c"].accept(on_sqlite.run_id)
    assert (reply.status_code, reply.json()["code"]) == (403, "not_a_member")
    assert on_sqlite["node-c"].accept("run-unknown").status_code == 404


def test_declining_and_accepting_what_has_ended(on_sqlite: Federation) -> None:
    on_sqlite.create()
    on_sqlite["node-a"].withdraw(on_sqlite.run_id)
    wish = on_sqlite["node-a"].desired()
    assert (wish.invitations, wish.finished_runs) == ((), (on_sqlite.run_id,))
    on_sqlite.move("stop")
    assert on_sqlite["node-b"].accept(on_sqlite.run_id).json()["code"] == "membership_over"
    assert on_sqlite["node-b"].desired().invitations == ()


def test_lists_are_paged_and_filtered(federation: Federation) -> None:
    ids = []
    for index in range(3):
        ids.append(federation.create(name=f"run {index}", nodes=NODES[: index + 1], quorum={"min_nodes": 1}))
        federation.alliance.clock.advance(1)
    federation.move("stop")

    def listed(**query: object) -> list[str]:
        reply = federation.alliance.admin.get(f"{API}/runs", **query)
        return [run.run_id for run in Page[RunView].model_validate_json(reply.content).items]

    assert listed() == ids[::-1]  # newest first
    assert listed(offset=1, limit=1) == [ids[1]]
    assert listed(status="stopped") == [ids[2]]
    assert listed(node_id="node-b") == [ids[2], ids[1]]
    assert listed(name="run 0") == [ids[0]]


def test_rounds_are_paged(federation: Federation) -> None:
    federation.begin().to_round(2)
    path = f"{API}/runs/{federation.run_id}/rounds"
    page = Page[RoundView].model_validate_json(federation.alliance.admin.get(path, offset=1, limit=1).content)
    assert (page.total, [found.round_number for found in page.items]) == (3, [1])


@pytest.mark.parametrize("path", ["/runs/run-unknown", "/runs/run-unknown/rounds", "/runs/run-unknown/rounds/0"])
def test_what_does_not_exist_is_not_found(on_sqlite: Federation, path: str) -> None:
    reply = on_sqlite.alliance.admin.get(f"{API}{path}")
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


def test_a_number_no_round_can_have_is_refused(on_sqlite: Federation) -> None:
    on_sqlite.create()
    for number in ("-1", "99999999999999999999", "x"):
        reply = on_sqlite.alliance.admin.get(f"{API}/runs/{on_sqlite.run_id}/rounds/{number}")
        assert reply.status_code == 422


def test_runs_are_the_admins(on_sqlite: Federation) -> None:
    on_sqlite.create()
    for path in ("", f"/{on_sqlite.run_id}", f"/{on_sqlite.run_id}/rounds"):
        for speaker in (on_sqlite.alliance.stranger, on_sqlite["node-a"].speaker):
            assert speaker.get(f"{API}/runs{path}").status_code == 401
