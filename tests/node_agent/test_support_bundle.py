"""What leaves with a support bundle: secrets and names are planted wherever a site could have them; none is in it."""

import ast
import gzip
import json
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

import node_agent
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import ClassCounts, TruthCounts
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase
from node_agent.check.finding import CheckReport, Concern, Estimate, Finding, Outcome, Part
from node_agent.check.run import LAST_CHECK
from node_agent.consents import Answer, Consents
from node_agent.egress import EgressLedger
from node_agent.errors import Failure, NotEnrolledError
from node_agent.facts import RoundFacts
from node_agent.journal import Journal
from node_agent.main import configure_logging
from node_agent.settings import NodeSettings
from node_agent.support.bundle import write_bundle
from node_agent.support.logs import EVENTS, reduced
from tests.node_agent.alliance import RUN, Alliance, make_config
from tests.node_agent.helpers import Hospital

PATIENT = "Grzegorzewska"  # a name that is in no library
SECRET = "hunter2-geheim"
DIAGNOSIS = "spiral-fracture-of"
TOKEN = "hsln_a_secret"
PLANTED = (PATIENT, PATIENT.lower(), SECRET, DIAGNOSIS, TOKEN, "PRIVATE KEY", "site-api-token")
SAID = f"cannot read /data/{PATIENT}/{DIAGNOSIS}.png"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeSettings:
    """A site in the middle of a failed round, with something to hide in every corner."""
    workdir = tmp_path / PATIENT / "node"
    Hospital(workdir, Alliance(tmp_path, make_config())).join()
    clock = ManualClock()
    journal = Journal(workdir / "journal.sqlite", clock)
    journal.move(NodePhase.TRAINING, RoundFacts(run_id=RUN, round_number=3, config=make_config(name=PATIENT)))
    journal.fail(Failure(FailureKind.REJECTED, "image_unreadable", SAID), SAID)
    consents = Consents(journal, clock)
    consents.invite(RUN, DIAGNOSIS)
    some = ClassCounts(positive=7654321, negative=3)
    consents.prepared(RUN, TruthCounts(training=some, validation=some, test=some), f"{PATIENT} 1 image")
    consents.answer(RUN, Answer.ACCEPT)
    consents.failed(RUN, SAID)
    EgressLedger(journal, clock).append("manifest", f"/{PATIENT}", b"x", (PATIENT,))
    journal.close()
    for name in ("cache", "store", "runs", "models"):
        (workdir / name / PATIENT).mkdir(parents=True)
        (workdir / name / PATIENT / f"{DIAGNOSIS}.png").write_bytes(b"pixels of " + PATIENT.encode())
    (workdir / "site.json").write_text(json.dumps({"token": "site-api-token"}))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{PATIENT}:{SECRET}@proxy.example:8080")
    return NodeSettings(
        workdir=workdir,
        coordinator_url=f"https://{PATIENT}:{SECRET}@coordinator.example:8443/{PATIENT}",
        proxy_url=f"http://ward:{SECRET}@proxy.example:3128",
        trainer_command=("python", f"/home/{PATIENT}/child.py"),
    )


@pytest.fixture
def log(settings: NodeSettings, capsys: pytest.CaptureFixture[str]) -> Iterator[Path]:
    """As the agent writes it, beside what other programs wrote into the same file."""
    before = structlog.get_config()
    configure_logging("info")
    logger = structlog.get_logger("test")
    logger.info("phase", phase=NodePhase.TRAINING, run_id=PATIENT, round_number=3, left=False)
    try:
        raise ValueError(SAID)
    except ValueError as error:
        logger.warning("phase failed", phase=NodePhase.TRAINING, code="image_unreadable", reason=SAID, exc_info=error)
    logger.info(f"looked at {PATIENT}")
    logger.info(
        "phase failed",
        phase=PATIENT.lower(),
        kind=PATIENT.lower(),
        code=PATIENT,
        sha256=PATIENT,
        timestamp=PATIENT,
        level=PATIENT,
    )
    path = settings.workdir / "agent.log"
    foreign = [f"Traceback of {PATIENT}", f"Bearer {TOKEN}", json.dumps({"event": SAID}), "{", json.dumps([PATIENT])]
    path.write_text("".join(f"site-1  | {line}\n" for line in (*capsys.readouterr().err.splitlines(), *foreign)))
    yield path
    structlog.configure(**before)


def read(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        found = {}
        for one in archive.getmembers():
            file = archive.extractfile(one)
            assert file is not None
            found[one.name.removeprefix("hsl-support/")] = file.read().decode()
    return found


def test_nothing_that_was_planted_is_in_it(settings: NodeSettings, log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tar.gz"
    items = write_bundle(settings, output, (), ManualClock())
    whole = gzip.decompress(output.read_bytes())
    keys = [path.read_text() for path in (settings.workdir / "keys").iterdir()]
    for planted in (*PLANTED, *(line for key in keys for line in key.split() if len(line) > 20), str(tmp_path)):
        assert planted.encode() not in whole, planted
        assert planted not in " ".join(item.why for item in items)
    assert b"7654321" not in whole  # counts of cases leave with the acceptance alone
    assert output.stat().st_mode & 0o777 == 0o600


def test_it_holds_what_helps(settings: NodeSettings, log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tar.gz"
    estimate = Estimate(training_s=1.0, transfer_s=2.0, sentence="A round takes about 3 s here.")
    finding = Finding(part=Part.HUB, concern=Concern.PORT, outcome=Outcome.FAILED, sentence="The port is closed.")
    report = CheckReport(
        at=ManualClock().now(), agent_version="0", is_enrolled=True, findings=(finding,), needed=(), estimate=estimate
    )
    (settings.workdir / LAST_CHECK).write_text(report.model_dump_json())
    items = write_bundle(settings, output, (), ManualClock())
    found = read(output)
    assert list(found) == [item.name for item in items]
    assert list(found)[1:] == sorted(list(found)[1:])
    for item in items:
        assert f"{item.name}: {item.why}" in found["contents.txt"] or item.name == "contents.txt"
    journal = json.loads(found["journal.json"])
    assert (journal["phase"], journal["failed_phase"]) == ("failed", "training")
    assert journal["failure"] == {"kind": "rejected", "code": "image_unreadable"}
    assert (journal["facts"]["run_id"], journal["facts"]["round_number"]) == (RUN, 3)
    assert journal["runs"] == [{"run_id": RUN, "answer": "accept", "told": False, "has_problem": True}]
    told = json.loads(found["settings.json"])
    assert told["coordinator"] == "https://coordinator.example:8443"
    assert told["proxy_to_coordinator"] == "proxy.example:3128, with credentials"
    egress = json.loads(found["egress.json"])
    assert egress["is_whole"]
    assert {one["kind"]: one["entries"] for one in egress["by_kind"]} == {"manifest": 1, "message": 1}
    assert json.loads(found["disk.json"])["folders"]["store"]["files"] == 1
    assert json.loads(found["versions.json"])["libraries"]["paramiko"]
    assert json.loads(found["check.json"])["findings"][0]["sentence"] == "The port is closed."


def test_of_the_log_the_agents_own_words_remain(settings: NodeSettings, log: Path, tmp_path: Path) -> None:
    items = write_bundle(settings, tmp_path / "out.tar.gz", (), ManualClock())
    lines = [json.loads(line) for line in read(tmp_path / "out.tar.gz")["log.jsonl"].splitlines()]
    assert [line["event"] for line in lines] == ["phase", "phase failed", "phase failed"]
    assert (lines[0]["phase"], lines[0]["round_number"], lines[0]["level"]) == ("training", 3, "info")
    assert lines[1]["code"] == "image_unreadable"
    (raised,) = lines[1]["exception"]
    assert raised["type"] == "ValueError"
    assert raised["places"][-1].startswith("test_support_bundle.py:")
    assert set(lines[2]) == {"event", "level", "timestamp"}
    (why,) = (item.why for item in items if item.name == "log.jsonl")
    assert "6 other lines are left out" in why


def test_a_log_elsewhere_is_named_and_a_missing_one_is_explained(settings: NodeSettings, tmp_path: Path) -> None:
    (item,) = (one for one in write_bundle(settings, tmp_path / "a", (), ManualClock()) if one.name == "log.jsonl")
    assert item.data is None
    assert "docker compose logs" in item.why
    assert "log.jsonl: no log here" in read(tmp_path / "a")["contents.txt"]
    other = tmp_path / "other.log"
    other.write_text(json.dumps({"event": "phase", "phase": "idle"}) + "\n")
    write_bundle(settings, tmp_path / "b", (other,), ManualClock())
    assert json.loads(read(tmp_path / "b")["log.jsonl"])["phase"] == "idle"


def test_equal_states_give_equal_bytes(settings: NodeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node_agent.support.parts.disk_part", lambda workdir: {})  # other programs write to the disk
    later = ManualClock()
    later.advance(timedelta(days=1).total_seconds())
    for name, clock in (("a", ManualClock()), ("b", later)):
        write_bundle(settings, tmp_path / name, (), clock)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes()[4:8] == bytes(4)  # gzip's own time


def test_every_event_of_the_agent_is_known_and_is_a_constant() -> None:
    """Otherwise a log line would be left out without a reason, or an event could carry a name."""
    found = set()
    for path in Path(*node_agent.__path__).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
                found.add(node.args[0].value)
    assert found == EVENTS


@pytest.mark.parametrize("line", ["", "{" * 100_000, "[" * 100_000, '{"event": ["phase"]}', '{"event": 1}', "\x00{}"])
def test_lines_of_any_kind_are_read(line: str) -> None:
    assert reduced([line]).lines == ()


def test_a_folder_that_is_no_agents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolledError):
        write_bundle(NodeSettings(workdir=tmp_path / "nobody"), tmp_path / "out", (), ManualClock())
    assert not (tmp_path / "nobody").exists()
