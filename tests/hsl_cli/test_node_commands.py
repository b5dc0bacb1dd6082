"""`hsl node …`: enrolment, bindings, answers to invitations through the site API, the offline checks and exports."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from typer.testing import Result

from hsl_cli.consent import PATIENCE_S, answer, prepared
from hsl_cli.errors import RefusedError
from hsl_cli.model_folder import read_card
from hsl_cli.node_views import summary_facts
from hsl_cli.service import Service
from hsl_data.phantoms import write_phantom_sat, write_phantom_sites
from hsl_model.checkpoint import read_tensors, write_tensors
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import ClassCounts, TruthCounts
from hsl_model.protocol.states import NodePhase
from node_agent.bindings import BindingFile, read_binding
from node_agent.model_card import ModelCard
from node_agent.settings import NodeSettings
from node_agent.status import HeldKey, RunSummary, SiteStatus
from tests.hsl_cli.helpers import NOON, FakeService, a_config, digest, problem

Hsl = Callable[..., Result]
CODE = "one-time-code-of-the-alliance"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / "node"


@pytest.fixture
def agent(coordinator: FakeService, workdir: Path) -> FakeService:
    """A site API of cardboard, found by its site.json."""
    workdir.mkdir()
    (workdir / "site.json").write_text(json.dumps({"url": coordinator.url, "token": "site-token"}))
    return coordinator


def a_status(**changed: Any) -> SiteStatus:
    given: dict[str, Any] = {
        "node_id": "site-1",
        "alliance": "Bones",
        "agent_version": "0.1.0",
        "boot_number": 3,
        "phase": NodePhase.TRAINING,
        "since": NOON,
        "run_id": "run-0000aaaa",
        "round_number": 2,
        "explanation": "Training on this site's images.",
        "progress": None,
        "paused_by_site": False,
        "attempt": 0,
        "retry_in_s": None,
        "failure_code": None,
        "coordinator_reachable": True,
        "coordinator_last_answer_s": 1.5,
        "coordinator_failure": None,
        "trainer_pid": 17,
        "egress_head": digest("d"),
    }
    return SiteStatus(**{**given, **changed})


def a_summary(**changed: Any) -> RunSummary:
    given: dict[str, Any] = {
        "run_id": "run-0000aaaa",
        "name": "bones in winter",
        "task": a_config().task,
        "method": "hsl",
        "method_summary": "HeteroSync Learning",
        "num_rounds": 3,
        "nodes": ("site-1", "site-2"),
        "what_leaves": ("once: how many images",),
        "counts": None,
        "report": None,
        "answer": None,
        "told": False,
        "problem": None,
        "explanation": "this site's images are being looked at",
    }
    return RunSummary(**{**given, **changed})


def enrolled(hsl: Hsl, coordinator: FakeService, workdir: Path) -> Result:
    host_key = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    hub = {"host": "127.0.0.1", "port": 2022, "username": "site-1", "host_key": host_key}
    reply = {"node_id": "site-1", "alliance": "Bones", "token": "hsln_site-1_secret", "hub": hub}
    coordinator.on("POST", "/api/v1/enrol", reply)
    return hsl("node", "enrol", "--workdir", workdir, "--coordinator", coordinator.url, "--code", CODE)


def test_enrol_makes_keys_sends_their_public_halves_and_never_shows_the_token(
    hsl: Hsl, coordinator: FakeService, workdir: Path
) -> None:
    found = enrolled(hsl, coordinator, workdir)
    assert found.exit_code == 0, found.stderr
    assert "This site is now site-1 of Bones" in found.stdout
    assert "hsln_" not in found.stdout
    sent = coordinator.asked[-1][2]
    assert sent["code"] == CODE
    assert "PRIVATE" not in json.dumps(sent)
    again = hsl("node", "enrol", "--workdir", workdir, "--coordinator", coordinator.url, "--code", CODE)
    assert (again.exit_code, len(coordinator.asked)) == (1, 1)
    assert "--again" in again.stderr
    anew = hsl("node", "enrol", "--again", "--workdir", workdir, "--coordinator", coordinator.url, "--code", CODE)
    assert "Restart its agent" in anew.stdout
    assert coordinator.asked[-1][2]["signing_public_key"] == sent["signing_public_key"]


def test_enrol_with_a_wrong_code_is_the_coordinators_sentence(
    hsl: Hsl, coordinator: FakeService, workdir: Path
) -> None:
    sentence = "This code is not valid any more; ask for a new one."
    coordinator.on("POST", "/api/v1/enrol", problem("code_invalid", sentence, 403), status=403)
    found = hsl("node", "enrol", "--workdir", workdir, "--coordinator", coordinator.url, "--code", CODE)
    assert (found.exit_code, found.stderr) == (1, f"error: {sentence}\n")


@pytest.mark.parametrize(
    ("url", "code", "exit_code", "said"),
    [
        ("nonsense", CODE, 2, "is not an address"),
        ("http://127.0.0.1:9", "short", 2, "--code: this is not a code"),
        ("http://127.0.0.1:9", CODE, 3, "could not be reached"),
    ],
)
def test_enrol_that_cannot_work(hsl: Hsl, workdir: Path, url: str, code: str, exit_code: int, said: str) -> None:
    found = hsl("node", "enrol", "--workdir", workdir, "--coordinator", url, "--code", code)
    assert found.exit_code == exit_code
    assert said in found.stderr


def test_bind_writes_the_binding_where_no_agent_runs(hsl: Hsl, workdir: Path, tmp_path: Path) -> None:
    (images,) = write_phantom_sites(tmp_path, 1, 20, 16, 0)
    arguments = ("--workdir", workdir, "--task", "bones", "--path", images, "--class", "fractured=fracture")
    assert hsl("node", "bind", *arguments, "--class", "intact=none", "--domain", "leg").exit_code == 0
    binding = read_binding(NodeSettings(workdir=workdir), "bones").binding
    assert (binding.reader, binding.domains) == ("npz", ("leg",))
    assert binding.classes == {"fractured": "fracture", "intact": "none"}


def test_bind_tells_a_running_agent(hsl: Hsl, agent: FakeService, workdir: Path, tmp_path: Path) -> None:
    (images,) = write_phantom_sites(tmp_path, 1, 20, 16, 0)
    given = {"binding": {"task_id": "bones", "reader": "npz", "path": str(images), "classes": {"a": "b"}}}
    agent.on("POST", "/bindings", BindingFile.model_validate(given))
    found = hsl("node", "bind", "--workdir", workdir, "--task", "bones", "--path", images, "--class", "a=b")
    assert found.exit_code == 0, found.stderr
    assert agent.asked[-1][2]["binding"]["task_id"] == "bones"
    assert agent.asked[-1][3]["Authorization"] == "Bearer site-token"
    assert not (workdir / "bindings").exists()


def test_status_shows_the_agent_and_its_invitations(hsl: Hsl, agent: FakeService, workdir: Path) -> None:
    agent.on("GET", "/status", a_status())
    agent.on("GET", "/runs", [a_summary().model_dump(mode="json")])
    shown = hsl("node", "status", "--workdir", workdir).stdout
    assert "run-0000aaaa, round 2" in shown
    assert "not answered" in shown
    plain = json.loads(hsl("node", "status", "--workdir", workdir, "--json").stdout)
    assert (plain["status"]["phase"], plain["runs"][0]["method"]) == ("training", "hsl")


def test_a_held_key_is_shown_and_trusted_by_its_fingerprint(hsl: Hsl, agent: FakeService, workdir: Path) -> None:
    held = HeldKey(name="site-2", known="SHA256:old", offered="SHA256:new", sentence="site-2 has another key.")
    agent.on("GET", "/status", a_status(held_keys=(held,)))
    agent.on("GET", "/runs", [])
    agent.on("POST", "/trust", a_status())
    shown = hsl("node", "status", "--workdir", str(workdir))
    assert "site-2 has another key." in shown.stdout
    refused = hsl("node", "trust", "site-2", "--workdir", str(workdir))
    assert (refused.exit_code != 0, "--yes" in refused.stderr) == (True, True)
    unknown = hsl("node", "trust", "site-3", "--yes", "--workdir", str(workdir))
    assert unknown.exit_code != 0
    assert "/trust" not in [path for _, path, *_ in agent.asked]
    assert hsl("node", "trust", "site-2", "--yes", "--workdir", str(workdir)).exit_code == 0
    assert agent.asked[-1][2] == {"name": "site-2", "fingerprint": "SHA256:new"}


@pytest.mark.parametrize(
    ("options", "wish"),
    [((), {"ssh": True, "signing": True}), (("--only", "ssh"), {"ssh": True, "signing": False})],
)
def test_rotate_says_what_is_new_and_where_it_stands(
    hsl: Hsl, agent: FakeService, workdir: Path, options: tuple[str, ...], wish: dict[str, bool]
) -> None:
    agent.on("POST", "/rotate", a_status(rotation="The new keys are in use; the hub is still to be told."), a_status())
    first = hsl("node", "rotate", *options, "--workdir", str(workdir))
    assert "still to be told" in first.stdout
    assert agent.asked[-1][2] == wish
    assert "in use" in hsl("node", "rotate", *options, "--workdir", str(workdir)).stdout


@pytest.mark.parametrize("command", [("status",), ("pause",), ("accept", "run-1", "--yes"), ("withdraw", "run-1")])
def test_without_an_agent_it_says_how_to_start_one(hsl: Hsl, workdir: Path, command: tuple[str, ...]) -> None:
    found = hsl("node", *command, "--workdir", workdir)
    assert found.exit_code == 3
    assert f"hsl node serve --workdir {workdir}" in found.stderr


def test_accept_wants_to_be_meant(hsl: Hsl, agent: FakeService, workdir: Path) -> None:
    found = hsl("node", "accept", "run-0000aaaa", "--workdir", workdir)
    assert (found.exit_code, agent.asked) == (2, [])


def test_accept_waits_until_the_coordinator_has_been_told(hsl: Hsl, agent: FakeService, workdir: Path) -> None:
    told = a_summary(answer="accept", told=True, explanation="Accepted: this site is a member.")
    agent.on("POST", "/runs/run-0000aaaa/accept", told)
    found = hsl("node", "accept", "run-0000aaaa", "--workdir", workdir, "--yes")
    assert (found.exit_code, found.stdout) == (0, "Accepted: this site is a member.\n")


def test_what_stands_in_the_way_of_accepting_is_exit_code_1(hsl: Hsl, agent: FakeService, workdir: Path) -> None:
    blocked = a_summary(problem="No case has domain elbow.", explanation="No case has domain elbow. Then answer again.")
    agent.on("POST", "/runs/run-0000aaaa/accept", blocked)
    found = hsl("node", "accept", "run-0000aaaa", "--workdir", workdir, "--yes")
    assert (found.exit_code, found.stderr) == (1, "error: No case has domain elbow. Then answer again.\n")


def test_the_summary_before_the_answer_has_the_counts_of_this_site(agent: FakeService) -> None:
    part = ClassCounts(positive=12, negative=34)
    counts = TruthCounts(training=part, validation=part, test=part, num_unreadable=5)
    agent.on("GET", "/runs/run-0000aaaa", a_summary(), a_summary(counts=counts))
    with Service(agent.url, "t", name="the agent") as service:
        summary = prepared(service, "run-0000aaaa", ManualClock())
    console = Console(file=StringIO(), width=120)
    console.print(summary_facts(summary))
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    for said in ("fracture against none", "once: how many images", "12 fracture, 34 others", "5 unreadable"):
        assert said in shown


def test_waiting_for_an_agent_that_never_gets_ready_is_bounded(agent: FakeService) -> None:
    agent.on("POST", "/runs/run-0000aaaa/accept", a_summary())
    clock = ManualClock()
    with Service(agent.url, "t", name="the agent") as service, pytest.raises(RefusedError, match="15 minutes"):
        answer(service, "run-0000aaaa", "accept", _Hurried(clock))
    assert clock.monotonic() > PATIENCE_S


class _Hurried(ManualClock):
    """Minutes pass with each look, so that the patience is soon over."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock

    def monotonic(self) -> float:
        self._clock.advance(300)
        return self._clock.monotonic()

    def wait(self, wake: Any, timeout_s: float | None) -> bool:
        return False


def test_verify_egress_follows_the_ledger(hsl: Hsl, coordinator: FakeService, workdir: Path) -> None:
    enrolled(hsl, coordinator, workdir)
    found = hsl("node", "verify-egress", "--workdir", workdir, "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["num_entries"] == 1


def test_a_support_bundle_says_what_is_in_it(hsl: Hsl, coordinator: FakeService, workdir: Path, tmp_path: Path) -> None:
    enrolled(hsl, coordinator, workdir)
    output = tmp_path / "help.tar.gz"
    found = hsl("node", "support-bundle", "--workdir", workdir, "--output", output)
    assert found.exit_code == 0, found.stderr
    assert output.stat().st_mode & 0o777 == 0o600
    assert "+ journal.json" in found.stdout
    assert "- log.jsonl" in found.stdout
    assert "no log here" in found.stdout
    listed = json.loads(hsl("node", "support-bundle", "--workdir", workdir, "--output", output, "--json").stdout)
    assert {one["name"]: one["is_in"] for one in listed}["log.jsonl"] is False
    missing = hsl("node", "support-bundle", "--workdir", workdir, "--output", output, "--log", tmp_path / "none.log")
    assert (missing.exit_code, "none.log" in missing.stderr) == (2, True)


def test_verify_egress_of_a_folder_that_is_no_agents(hsl: Hsl, workdir: Path) -> None:
    found = hsl("node", "verify-egress", "--workdir", workdir)
    assert found.exit_code == 1
    assert "holds no enrolment" in found.stderr
    assert not workdir.exists()


def kept_model(workdir: Path, tmp_path: Path) -> None:
    """What an agent keeps after round 7: shared tensors laid over its private ones, and a binding with the SAT."""
    sat = write_phantom_sat(tmp_path / "sat.safetensors", 4, 16, 0)
    (images,) = write_phantom_sites(tmp_path, 1, 20, 16, 0)
    config = a_config().model_copy(update={"sat_digest": sat.digest})
    folder = NodeSettings(workdir=workdir).model_folder("run-1")
    folder.mkdir(parents=True)
    write_tensors(folder / "own.safetensors", {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)})
    write_tensors(folder / "fused.safetensors", {"b": np.ones(2, np.float32)})
    card = ModelCard(
        run_id="run-1",
        node_id="site-1",
        round_number=7,
        config=config,
        fused_digest=digest("f"),
        validation=None,
        files=("own.safetensors", "fused.safetensors"),
    )
    for name in ("round-0007.json", "model.json"):
        (folder / name).write_text(card.model_dump_json())
    binding = {"task_id": "bones", "reader": "npz", "path": str(images), "classes": {"a": "b"}}
    file = BindingFile.model_validate({"binding": binding, "sat_path": str(sat.path)})
    (workdir / "bindings").mkdir()
    (workdir / "bindings" / "bones.json").write_text(file.model_dump_json())


def test_export_lays_the_files_over_one_another(hsl: Hsl, workdir: Path, tmp_path: Path) -> None:
    kept_model(workdir, tmp_path)
    found = hsl("node", "export", "--workdir", workdir, "--run", "run-1", "--to", tmp_path / "model")
    assert found.exit_code == 0, found.stderr
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "model.safetensors",
        "run.json",
        "sat.safetensors",
    ]
    tensors = read_tensors(tmp_path / "model" / "model.safetensors")
    assert {name: array.tolist() for name, array in tensors.items()} == {"a": [0, 0], "b": [1, 1]}
    assert (read_card(tmp_path / "model").round_number, read_card(tmp_path / "model").node_id) == (7, "site-1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--run", "run-1", "--round", "3"), "keeps run run-1 after these rounds: 7; choose one with --round"),
        (("--run", "run-2"), "holds no model of run run-2; it holds run-1"),
        (("--run", "../.."), "holds no model of run"),
    ],
)
def test_export_of_what_is_not_there(
    hsl: Hsl, workdir: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    kept_model(workdir, tmp_path)
    found = hsl("node", "export", "--workdir", workdir, "--to", tmp_path / "model", *arguments)
    assert found.exit_code == 2
    assert said in found.stderr
