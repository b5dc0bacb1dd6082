"""Rule 7: any file of the ledger that somebody misses is published by somebody who keeps it."""

import pytest

from tests.coordinator.rounds.sites import Federation, sha


@pytest.fixture
def in_round_3(federation: Federation) -> Federation:
    return federation.begin(num_rounds=9).to_round(3)


def start_of(federation: Federation, node_id: str) -> str:
    start = federation[node_id].assignment().start
    assert start is not None
    return start.file_sha256


def asked(federation: Federation) -> dict[str, list[str]]:
    found = {site.node_id: [one.file_sha256 for one in site.desired().publish] for site in federation.sites.values()}
    return {node_id: files for node_id, files in found.items() if files}


def want(federation: Federation, node_id: str, *missing: str) -> None:
    federation[node_id].desired(missing=missing)


def test_wanted_published_found(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    want(in_round_3, "node-a", file)
    assert asked(in_round_3) == {"node-b": [file]}  # the first live holder; never the one that misses it
    assert "node-b" in (in_round_3["node-a"].assignment().waiting or "")
    in_round_3["node-b"].published(in_round_3.run_id, file)
    in_round_3["node-b"].published(in_round_3.run_id, file)
    assert asked(in_round_3) == {}
    assert in_round_3["node-a"].assignment().start.on_hub == ("node-b",)  # type: ignore[union-attr]
    assert in_round_3.alliance.event_kinds(node_id="node-b").count("file.published") == 1


def test_a_node_that_finds_its_file_misses_nothing_any_more(in_round_3: Federation) -> None:
    want(in_round_3, "node-a", start_of(in_round_3, "node-a"))
    want(in_round_3, "node-a", sha("of no run"))
    assert asked(in_round_3) == {}
    assert in_round_3.alliance.event_kinds(node_id="node-a").count("file.wanted") == 1


def test_one_that_is_lost_is_not_asked_first(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    in_round_3.alliance.clock.advance(400)
    in_round_3["node-c"].heartbeat("training")
    want(in_round_3, "node-a", file)
    assert asked(in_round_3) == {"node-c": [file]}


def test_when_nobody_answers_the_next_holder_is_asked_too(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    want(in_round_3, "node-a", file)
    in_round_3.alliance.clock.advance(61)
    assert asked(in_round_3) == {"node-b": [file], "node-c": [file]}


def test_a_publication_that_did_not_help_is_asked_for_again_after_a_while(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    want(in_round_3, "node-a", file)
    in_round_3["node-b"].published(in_round_3.run_id, file)
    want(in_round_3, "node-a", file)  # it is still downloading
    assert asked(in_round_3) == {}
    in_round_3.alliance.clock.advance(61)
    want(in_round_3, "node-a", file)
    assert asked(in_round_3) == {"node-b": [file]}


def test_with_all_disks_but_one_lost_the_one_is_asked(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    want(in_round_3, "node-a", file)
    want(in_round_3, "node-b", file)
    assert asked(in_round_3) == {"node-c": [file]}
    in_round_3.revoke("node-c")
    assert asked(in_round_3) == {}
    assert "no live member" in (in_round_3["node-a"].assignment().waiting or "")


def test_whoever_caught_up_is_a_holder_too(federation: Federation) -> None:
    """node-c was not in the round that fused the file, but trained from it."""
    federation.begin(round_deadline_s=600.0, num_rounds=9).to_round(1)
    for node_id in ("node-a", "node-b"):
        federation[node_id].announce(federation[node_id].assignment())
    federation.alliance.beat(600)
    federation.fuse_all()
    c = federation["node-c"]
    c.announce(c.assignment())
    file = start_of(federation, "node-c")
    for node_id in ("node-a", "node-b"):
        want(federation, node_id, file)
    assert asked(federation) == {"node-c": [file]}


@pytest.mark.parametrize("num_bytes", [999, 1000])
def test_only_files_of_the_ledger_are_published(in_round_3: Federation, num_bytes: int) -> None:
    file = start_of(in_round_3, "node-a") if num_bytes == 999 else sha("of no run")
    reply = in_round_3["node-b"].published(in_round_3.run_id, file, num_bytes)
    assert (reply.status_code, reply.json()["code"]) == (404, "file_unknown")


def test_only_members_publish(in_round_3: Federation) -> None:
    file = start_of(in_round_3, "node-a")
    in_round_3["node-b"].withdraw(in_round_3.run_id)
    assert in_round_3["node-b"].published(in_round_3.run_id, file).json()["code"] == "not_a_member"
    assert in_round_3["node-b"].published("run-unknown", file).json()["code"] == "not_a_member"


def test_what_is_kept_and_what_may_go(federation: Federation) -> None:
    federation.begin(num_rounds=9)
    for auc in (0.5, 0.9, 0.6, 0.6):
        federation.play_round(auc)
    wish = federation["node-a"].assignment()
    files = {number: federation.round(number).fused_file_sha256 for number in range(4)}
    assert wish.round_number == 4
    assert set(wish.keep) == {files[0], files[1], files[3]}  # initial weights, best, newest
    assert wish.release_before == 3


def test_the_final_model_can_be_fetched_after_the_end(federation: Federation) -> None:
    federation.begin(num_rounds=1, report_deadline_s=300.0).to_fusing(1)
    for node_id in ("node-a", "node-b"):
        federation[node_id].fusion(federation[node_id].assignment())
    federation.alliance.beat(300)
    assert federation.run.status == "completed"
    file = federation.round(1).fused_file_sha256
    assert file is not None
    want(federation, "node-c", file)
    assert asked(federation) == {"node-a": [file]}
    assert federation["node-a"].published(federation.run_id, file).is_success
