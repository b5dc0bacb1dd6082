"""`hsl run …` and `hsl nodes …` against a server: what is sent, what is shown, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from hsl_cli.run_tables import fusers, progress
from hsl_model.protocol.messages import Progress
from hsl_model.protocol.states import NodePhase, ParticipationStatus, RoundStatus, RunStatus
from tests.hsl_cli.helpers import FakeService, a_config, a_node, a_participation, a_round, a_run, digest, problem

Hsl = Callable[..., Result]
RUN = "/api/v1/runs/run-0000aaaa"


def test_list_shows_a_table_and_prints_json_for_scripts(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on_page("/api/v1/runs", a_run(waiting="site-2 has not announced"))
    shown = admin("run", "list")
    assert shown.exit_code == 0
    assert "run-0000aaaa" in shown.stdout
    assert "site-2 has not announced" in shown.stdout
    assert json.loads(admin("run", "list", "--json").stdout)[0]["run_id"] == "run-0000aaaa"
    _, path, _, headers = coordinator.asked[-1]
    assert headers["Authorization"] == "Bearer a-token-of-an-admin"
    assert "status" not in path


def test_list_reads_every_page(admin: Hsl, coordinator: FakeService) -> None:
    pages = [
        {"items": [a_node(name).model_dump(mode="json")], "total": 2, "offset": offset, "limit": 1}
        for offset, name in enumerate(("site-1", "site-2"))
    ]
    coordinator.on("GET", "/api/v1/nodes", *pages)
    assert [node["node_id"] for node in json.loads(admin("nodes", "list", "--json").stdout)] == ["site-1", "site-2"]


def test_markup_from_the_wire_is_shown_as_text(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on_page("/api/v1/runs", a_run(waiting="[red]ask[/red] site-2"))
    assert "[red]ask[/red] site-2" in admin("run", "list").stdout


@pytest.mark.parametrize("verb", ["start", "pause", "resume"])
def test_a_run_is_moved(admin: Hsl, coordinator: FakeService, verb: str) -> None:
    coordinator.on("POST", f"{RUN}/{verb}", a_run())
    assert "run-0000aaaa is running" in admin("run", verb, "run-0000aaaa").stdout
    assert coordinator.asked[-1][:2] == ("POST", f"{RUN}/{verb}")


def test_stop_wants_to_be_meant(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("POST", f"{RUN}/stop", a_run(RunStatus.STOPPED))
    refused = admin("run", "stop", "run-0000aaaa")
    assert (refused.exit_code, coordinator.asked) == (2, [])
    assert "--yes" in refused.stderr
    assert admin("run", "stop", "run-0000aaaa", "--yes").exit_code == 0


def test_a_refusal_is_its_sentence_and_exit_code_1(admin: Hsl, coordinator: FakeService) -> None:
    sentence = "site-2 has not accepted; ask its admin."
    coordinator.on("POST", f"{RUN}/start", problem("quorum_missing", sentence, 409), status=409)
    found = admin("run", "start", "run-0000aaaa")
    assert (found.exit_code, found.stderr) == (1, f"error: {sentence}\n")


def test_input_that_the_coordinator_refuses_is_exit_code_2(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("POST", "/api/v1/nodes", problem("invalid", "node_id: too long.", 422), status=422)
    found = admin("nodes", "add", "x" * 40)
    assert (found.exit_code, found.stderr) == (2, "error: node_id: too long.\n")


def test_what_a_person_typed_stays_one_segment_of_the_path(admin: Hsl, coordinator: FakeService) -> None:
    assert admin("run", "show", "../nodes").exit_code == 1
    assert coordinator.asked[-1][1] == "/api/v1/runs/..%2Fnodes"


def test_an_answer_of_another_version_is_one_sentence(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", RUN, {"surprise": 1})
    found = admin("run", "show", "run-0000aaaa")
    assert found.exit_code == 1
    assert "same version" in found.stderr


def test_a_service_that_is_not_there_is_exit_code_3(hsl: Hsl) -> None:
    with FakeService() as gone:
        url = gone.url
    found = hsl("run", "list", "--url", url, "--token", "t")
    assert found.exit_code == 3
    assert f"Cannot reach the coordinator at {url}" in found.stderr


def test_a_service_that_cannot_do_it_now_is_exit_code_3(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("POST", "/api/v1/nodes", problem("hub", "The hub does not answer; start it.", 503), status=503)
    found = admin("nodes", "add", "site-1")
    assert (found.exit_code, found.stderr) == (3, "error: The hub does not answer; start it.\n")


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://host"])
def test_an_address_that_is_none_is_exit_code_2(hsl: Hsl, url: str) -> None:
    found = hsl("run", "list", "--url", url, "--token", "t")
    assert found.exit_code == 2
    assert "is not an address" in found.stderr


def test_without_an_address_it_says_how_to_give_one(hsl: Hsl, tmp_path: Path) -> None:
    found = hsl("run", "list", "--workdir", tmp_path)
    assert found.exit_code == 2
    assert "HSL_URL" in found.stderr


def test_address_from_environment_or_from_the_folder_of_a_demo(
    hsl: Hsl, coordinator: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.on_page("/api/v1/nodes")
    (tmp_path / "admin.json").write_text(json.dumps({"url": coordinator.url, "token": "from-the-file"}))
    assert hsl("nodes", "list", "--workdir", tmp_path).exit_code == 0
    assert coordinator.asked[-1][3]["Authorization"] == "Bearer from-the-file"
    monkeypatch.setenv("HSL_URL", coordinator.url)
    monkeypatch.setenv("HSL_ADMIN_TOKEN", "from-the-environment")
    assert hsl("nodes", "list").exit_code == 0
    assert coordinator.asked[-1][3]["Authorization"] == "Bearer from-the-environment"


def test_add_prints_the_code_once_with_the_command_for_the_site(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("POST", "/api/v1/nodes", {"node_id": "site-1", "code": "secret-code", "expires_in_s": 604800})
    found = admin("nodes", "add", "site-1", "--name", "North hospital")
    assert "--code secret-code" in found.stdout
    assert coordinator.asked[-1][2] == {"node_id": "site-1", "display_name": "North hospital"}


def test_create_sends_the_checked_configuration(admin: Hsl, coordinator: FakeService, tmp_path: Path) -> None:
    coordinator.on("POST", "/api/v1/runs", a_run(RunStatus.DRAFT, None))
    config = tmp_path / "run.json"
    config.write_text(a_config().model_dump_json())
    assert "hsl run start run-0000aaaa" in admin("run", "create", "--config", config).stdout
    assert coordinator.asked[-1][2] == a_config().model_dump(mode="json")


def test_show_has_members_and_rounds(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", RUN, a_run())
    coordinator.on_page(f"{RUN}/rounds", a_round(0, a_participation("site-1", digest("c")), fused=digest("c")))
    shown = admin("run", "show", "run-0000aaaa").stdout
    assert "cccccccccccc" in shown
    assert "3 + 7" in shown


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, "all"),
        ({"fusers": ("site-1", "site-3"), "audit": "site-2"}, "site-1, site-3; audit site-2"),
        ({"replaced": ("site-4",)}, "all; replaced site-4"),
    ],
)
def test_a_round_says_who_fuses_it(admin: Hsl, coordinator: FakeService, chosen: dict[str, Any], said: str) -> None:
    shown = a_round(1, a_participation("site-1", digest("c")), fused=digest("c"))
    assert shown.plan is not None
    plan = shown.plan.model_copy(update=chosen)
    coordinator.on("GET", RUN, a_run())
    coordinator.on_page(f"{RUN}/rounds", shown.model_copy(update={"plan": plan}))
    assert fusers(plan) == said
    assert "fusers" in admin("run", "show", "run-0000aaaa").stdout
    told = json.loads(admin("run", "show", "run-0000aaaa", "--json").stdout)["rounds"][0]["plan"]
    assert told["fusers"] == list(plan.fusers)


def test_show_says_how_far_each_member_of_the_open_round_is(admin: Hsl, coordinator: FakeService) -> None:
    uploading = a_participation(
        "site-1",
        None,
        status=ParticipationStatus.UPLOADING,
        phase=NodePhase.UPLOADING,
        progress=Progress(unit="bytes", done=41_000_000, total=95_000_000, rate_per_s=3_200_000.0, attempt=2),
    )
    coordinator.on("GET", RUN, a_run())
    coordinator.on_page(f"{RUN}/rounds", a_round(1, uploading, fused=None, status=RoundStatus.OPEN))
    shown = admin("run", "show", "run-0000aaaa").stdout
    assert "41 of 95 MB, 3.2 MB/s, attempt 2" in shown
    one = json.loads(admin("run", "show", "run-0000aaaa", "--json").stdout)["rounds"][0]["participations"][0]
    assert (one["phase"], one["progress"]["rate_per_s"]) == ("uploading", 3_200_000.0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Progress(unit="bytes", done=0, total=95_000_000), "0 of 95 MB"),
        (Progress(unit="bytes", done=500, total=999), "500 of 999 B"),
        (Progress(unit="bytes", done=1_234_567, total=2_000_000, rate_per_s=0.0), "1.2 of 2.0 MB, 0 B/s"),
        (Progress(unit="bytes", done=500_000, total=3_000_000_000, rate_per_s=12.0), "0.0 of 3.0 GB, 12 B/s"),
        (Progress(unit="bytes", done=2_000), "2.0 kB"),
        (Progress(unit="steps", done=3, total=9, attempt=3), "3 of 9 steps, attempt 3"),
        (Progress(unit="files", done=3), "3 files"),
        (None, None),
    ],
)
def test_progress_in_words(made: Progress | None, said: str | None) -> None:
    assert progress(made) == said


def test_watch_ends_with_the_run(admin: Hsl, coordinator: FakeService) -> None:
    done = a_run(RunStatus.COMPLETED, 0)
    coordinator.on("GET", RUN, done)
    coordinator.on("GET", f"{RUN}/rounds/0", a_round(0, a_participation("site-1", digest("c")), fused=digest("c")))
    coordinator.on_page("/api/v1/nodes", a_node("site-1"))
    shown = admin("run", "watch", "run-0000aaaa")
    assert shown.exit_code == 0
    assert "round 0 completed: mean AUC 0.750, fused digest cccccccccccc" in shown.stdout
    line = json.loads(admin("run", "watch", "run-0000aaaa", "--json").stdout)
    assert (line["status"], line["phases"]) == ("completed", {"site-1": "training"})


def test_watch_of_a_run_that_failed_is_exit_code_1(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("GET", RUN, a_run(RunStatus.STOPPED, None, reason="an admin stopped it"))
    coordinator.on_page("/api/v1/nodes")
    found = admin("run", "watch", "run-0000aaaa")
    assert found.exit_code == 1
    assert "an admin stopped it" in found.stderr


def test_in_the_coordinators_container_no_token_is_typed(
    hsl: Hsl, coordinator: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.on_page("/api/v1/runs", a_run())
    (tmp_path / "hsl_coordinator_admin_token").write_text("a-token-from-a-file\n")
    monkeypatch.setenv("HSL_SECRETS_FOLDER", str(tmp_path))
    monkeypatch.setenv("HSL_URL", coordinator.url)
    assert hsl("run", "list").exit_code == 0
    assert coordinator.asked[-1][3]["Authorization"] == "Bearer a-token-from-a-file"


def test_a_new_node_is_told_the_address_that_sites_use(admin: Hsl, coordinator: FakeService) -> None:
    made = {"node_id": "site-1", "code": "hslc_0123456789", "expires_in_s": 60.0}
    coordinator.on("POST", "/api/v1/nodes", made)
    assert (
        "--coordinator https://public.example "
        in admin("nodes", "add", "site-1", "--public-url", "https://public.example").stdout
    )


def test_a_run_is_created_from_the_standard_input(admin: Hsl, coordinator: FakeService) -> None:
    coordinator.on("POST", "/api/v1/runs", a_run())
    toml = 'name = "x"\nnodes = ["site-1"]\nquorum = { min_nodes = 1 }\nmethod = { name = "fedavg" }\n'
    toml += 'task = { task_id = "t", positive_class = "b", negative_class = "a", modality = "m" }\n'
    assert admin("run", "create", "--config", "-", input=toml).exit_code == 0
    assert coordinator.asked[-1][2]["name"] == "x"
    assert "not valid TOML" in admin("run", "create", "--config", "-", input="name =").stderr
