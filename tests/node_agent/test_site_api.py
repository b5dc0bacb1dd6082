"""What the site's admin sees and decides, over the real socket."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hsl_data.binding import SiteBinding
from hsl_model.protocol.states import NodePhase
from node_agent.bindings import BindingFile, read_binding, write_binding
from node_agent.site_api import SiteFile
from tests.node_agent.alliance import RUN, Alliance, make_config
from tests.node_agent.helpers import Hospital


@pytest.fixture
def alliance(tmp_path: Path) -> Alliance:
    return Alliance(tmp_path, make_config(num_rounds=1), invited=True)


@pytest.fixture
def hospital(tmp_path: Path, alliance: Alliance) -> Hospital:
    return Hospital(tmp_path / "a", alliance).join()


@pytest.fixture
def site(hospital: Hospital) -> Iterator[httpx.Client]:
    with hospital.running(), hospital.site() as client:
        yield client


def test_site_json_is_for_the_owner_and_gone_when_the_agent_ends(hospital: Hospital) -> None:
    with hospital.running():
        assert hospital.settings.site_file.stat().st_mode & 0o777 == 0o600
        found = SiteFile.model_validate_json(hospital.settings.site_file.read_bytes())
        assert found.url.startswith("http://127.0.0.1:")
        assert len(found.token) >= 32
    assert not hospital.settings.site_file.exists()


def test_without_the_token_nothing_is_told_but_health(site: httpx.Client) -> None:
    for token in ("", "Bearer wrong", "Basic YTpi"):
        for path in ("/status", "/runs", "/bindings", "/egress", f"/runs/{RUN}"):
            reply = site.get(path, headers={"Authorization": token})
            assert (reply.status_code, reply.json()["code"]) == (401, "site_token_invalid")
        assert site.post("/pause", headers={"Authorization": token}).status_code == 401
        assert site.get("/healthz", headers={"Authorization": token}).json() == {"status": "ok"}


def test_an_invitation_is_one_page_with_counts_before_anything_is_answered(
    site: httpx.Client, hospital: Hospital
) -> None:
    hospital.wait(lambda: [run for run in site.get("/runs").json() if run["counts"]])
    (run,) = site.get("/runs").json()
    assert (run["run_id"], run["answer"], run["method"], run["told"]) == (RUN, None, "swarm", False)
    assert run["counts"]["training"] == {"positive": 6, "negative": 4}
    assert run["report"] == "20 images found"
    assert any("never: an image" in line for line in run["what_leaves"])
    assert "hsl node accept run-1" in run["explanation"]
    assert not hospital.alliance.asked("/accept")


def test_accepting_makes_the_site_a_member_and_the_run_begins(site: httpx.Client, alliance: Alliance) -> None:
    run = site.post(f"/runs/{RUN}/accept", params={"wait_s": 20}).json()
    assert (run["answer"], run["told"], run["problem"]) == ("accept", True, None)
    (told,) = alliance.asked("/accept")
    assert told["counts"]["validation"] == {"positive": 6, "negative": 4}
    alliance.wait(lambda: alliance.finished)
    assert site.get(f"/runs/{RUN}").json()["explanation"] == "Accepted: this site is a member."


def test_accepting_without_data_says_what_to_do(hospital: Hospital) -> None:
    (hospital.settings.bindings_folder / "fracture.json").unlink()
    with hospital.running(), hospital.site() as site:
        hospital.wait(lambda: site.get("/runs").json())
        reply = site.post(f"/runs/{RUN}/accept")
        assert (reply.status_code, reply.json()["code"]) == (409, "binding_missing")
        assert "hsl node bind" in reply.json()["detail"]


def test_data_that_cannot_be_used_are_a_problem_until_other_data_are_bound(tmp_path: Path, alliance: Alliance) -> None:
    hospital = Hospital(tmp_path / "a", alliance, "--fail", "class_missing").join()
    with hospital.running(), hospital.site() as site:
        run = site.post(f"/runs/{RUN}/accept", params={"wait_s": 20})
        if run.status_code == 404:
            hospital.wait(lambda: site.get("/runs").json())
            run = site.post(f"/runs/{RUN}/accept", params={"wait_s": 20})
        assert "No image of class fracture" in run.json()["problem"]
        assert not alliance.asked("/accept")
        binding = read_binding(hospital.settings, "fracture")
        site.post("/bindings", json=binding.model_dump(mode="json"))
        hospital.wait(lambda: len([line for line in hospital.asked_trainer() if "prepare" in line]) >= 2)


def test_a_run_nobody_knows_is_404(site: httpx.Client) -> None:
    reply = site.post("/runs/run-9/accept")
    assert (reply.status_code, reply.json()["code"]) == (404, "run_unknown")
    assert "hsl node status" in reply.json()["detail"]


def test_binding_by_the_api_is_binding_by_the_file(site: httpx.Client, hospital: Hospital, tmp_path: Path) -> None:
    file = BindingFile(
        binding=SiteBinding(task_id="a/../b", reader="npz", path=tmp_path / "x.npz", classes={"a": "b"}),
        sat_path=tmp_path / "sat.npz",
    )
    assert site.post("/bindings", json=file.model_dump(mode="json")).status_code == 200
    assert read_binding(hospital.settings, "a/../b") == file
    assert {path.parent for path in hospital.settings.workdir.rglob("*a_*b*")} == {hospital.settings.bindings_folder}
    assert len(site.get("/bindings").json()) == 2


def test_a_binding_that_makes_no_sense_is_refused_with_the_place(site: httpx.Client) -> None:
    reply = site.post("/bindings", json={"binding": {"task_id": "x"}, "sat": None})
    assert (reply.status_code, reply.json()["code"]) == (422, "request_invalid")
    assert "binding" in reply.json()["detail"]


def test_what_the_framework_refuses_is_a_problem_as_well(site: httpx.Client) -> None:
    broken = site.post("/bindings", content=b"{", headers={"Content-Type": "application/json"})
    nowhere, wrong = site.get("/nowhere"), site.delete("/status")
    for reply, status, code in (
        (broken, 422, "request_invalid"),
        (nowhere, 404, "not_served"),
        (wrong, 404, "not_served"),
    ):
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert reply.headers["content-type"] == "application/problem+json"


def test_a_task_whose_name_no_file_could_have_is_bound_all_the_same(hospital: Hospital) -> None:
    task_id = "\N{CJK UNIFIED IDEOGRAPH-20000}" * 64  # 256 bytes
    binding = SiteBinding(task_id=task_id, reader="npz", path=Path("/x.npz"), classes={"a": "p", "b": "n"})
    write_binding(hospital.settings, BindingFile(binding=binding))
    assert read_binding(hospital.settings, task_id).binding == binding


def test_the_status_explains_itself_in_one_sentence(site: httpx.Client, hospital: Hospital) -> None:
    hospital.wait(lambda: site.get("/status").json()["coordinator_reachable"])
    status = site.get("/status").json()
    assert status["phase"] == NodePhase.IDLE
    assert status["explanation"] == "The coordinator has no round for this node now."
    assert status["boot_number"] == 1
    assert status["node_id"] == "hospital-a"
    egress = site.get("/egress").json()
    assert egress["num_entries"] >= 1  # the enrolment
    assert egress["head"] == site.get("/status").json()["egress_head"]
