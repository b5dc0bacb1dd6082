"""The ledger is restored from a backup that is two rounds old, while real agents go on; real processes."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hsl_model.protocol.states import ParticipationStatus
from hsl_model.protocol.views import LedgerView, RoundView
from tests.e2e.alliance import ROOT, Alliance

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(1800)]
REVOKED, STAY = "site-3", ("site-1", "site-2")
MORE_THAN_ENOUGH = 200  # rounds; the test stops the run


def hsl(alliance: Alliance, *arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hsl_cli.main", *map(str, arguments)],
        env={"HSL_URL": alliance.url, "HSL_ADMIN_TOKEN": alliance.token, "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_restored_recovered_and_gone_on(new_alliance: Callable[..., Alliance]) -> None:
    alliance = new_alliance()
    alliance.start()
    run_id = alliance.create_run(num_rounds=MORE_THAN_ENOUGH, quorum={"min_nodes": 2})
    alliance.start_run(run_id)
    alliance.wait_until(lambda: newest_completed(alliance, run_id) >= 1, "round 1")
    backup = alliance.root / "backup.db"
    copy(alliance.root / "coordinator.db", backup)
    at_backup = newest_completed(alliance, run_id)
    alliance.wait_until(lambda: newest_completed(alliance, run_id) >= at_backup + 2, "two more rounds")
    alliance.post(f"/nodes/{REVOKED}/revoke")
    alliance.wait_until(lambda: all(knows(alliance, node_id) for node_id in STAY), "the others to be told")
    before = completed(alliance, run_id)

    alliance.services["coordinator"].kill()
    for name in ("coordinator.db", "coordinator.db-wal", "coordinator.db-shm"):
        (alliance.root / name).unlink(missing_ok=True)
    shutil.copyfile(backup, alliance.root / "coordinator.db")
    alliance.services["coordinator"].start()
    alliance.wait_until(lambda: alliance.run(run_id).reason == "ledger_restored", "the ledger to be held")
    assert " has seen event " in (alliance.run(run_id).waiting or "")
    alliance.wait_until(
        lambda: {one.node_id for one in ledger(alliance).nodes if one.has_answered} >= set(STAY), "their records"
    )
    said = json.loads(hsl(alliance, "coordinator", "recover", "--yes", "--wait", "0", "--json"))
    assert said["recovered"]["revoked"] == [REVOKED]
    assert said["recovered"]["to_resume"] == [run_id]
    after = completed(alliance, run_id)
    assert {number: after[number].fused_digest for number in before} == digests(before)
    announced = updates(alliance, run_id)

    hsl(alliance, "run", "resume", run_id)
    alliance.wait_until(lambda: newest_completed(alliance, run_id) >= max(after) + 2, "two rounds after the recovery")
    alliance.post(f"/runs/{run_id}/stop")
    for number, one in completed(alliance, run_id).items():
        fused = [p for p in one.participations if p.status == ParticipationStatus.FUSED]
        assert {p.fused_digest for p in fused} == {one.fused_digest}
        assert number <= max(after) or {p.node_id for p in fused} == set(STAY), one
    # Nothing was trained twice: each completed round once, and what was announced before is what counts now.
    now = updates(alliance, run_id)
    assert {key: now[key] for key in announced} == announced
    for node_id in STAY:
        trained = Counter(phases(alliance, node_id, "training"))
        assert [trained[number] for number in sorted(after) if number > 0] == [1] * max(after), trained


def copy(ledger_path: Path, target: Path) -> None:
    """As `sqlite3 .backup` does it: a copy that does not say that it is one, so the agents have to find out."""
    with closing(sqlite3.connect(ledger_path)) as source, closing(sqlite3.connect(target)) as made:
        source.backup(made)


def completed(alliance: Alliance, run_id: str) -> dict[int, RoundView]:
    return {one.round_number: one for one in alliance.rounds(run_id) if one.status == "completed"}


def digests(rounds: dict[int, RoundView]) -> dict[int, str | None]:
    return {number: one.fused_digest for number, one in rounds.items()}


def newest_completed(alliance: Alliance, run_id: str) -> int:
    return max(completed(alliance, run_id), default=-1)


def knows(alliance: Alliance, node_id: str) -> bool:
    """It was told of the revocation, and remembers."""
    with closing(sqlite3.connect(alliance.settings(node_id).journal_path)) as connection:
        return connection.execute("SELECT 1 FROM seen_revoked WHERE node_id = ?", (REVOKED,)).fetchone() is not None


def ledger(alliance: Alliance) -> LedgerView:
    return LedgerView.model_validate_json(alliance.http.get("/ledger").raise_for_status().content)


def updates(alliance: Alliance, run_id: str) -> dict[tuple[int, str], str]:
    return {
        (one.round_number, p.node_id): p.update_sha256
        for one in alliance.rounds(run_id)
        for p in one.participations
        if p.update_sha256 is not None
    }


def phases(alliance: Alliance, node_id: str, phase: str) -> list[int]:
    """The rounds in which an agent entered a phase, by its log."""
    lines = (alliance.root / "logs" / f"{node_id}.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [one["round_number"] for one in events if one.get("event") == "phase" and one.get("phase") == phase]
