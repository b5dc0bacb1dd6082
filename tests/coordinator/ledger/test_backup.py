"""`hsl coordinator backup`: a copy made while the coordinator runs, which says of itself that it is one."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from coordinator.ledger.backup import BackupError, write_backup
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.transport import API
from tests.coordinator.conftest import open_alliance
from tests.coordinator.fakes import MemoryHub
from tests.coordinator.helpers import Alliance
from tests.coordinator.rounds.sites import enrolled


def test_a_coordinator_on_a_backup_waits_before_anybody_has_spoken(
    sqlite_alliance: Alliance, sqlite_url: str, tmp_path: Path, clock: ManualClock, hub: MemoryHub
) -> None:
    federation = enrolled(sqlite_alliance).begin().to_round(1)
    target = tmp_path / "backup.db"
    assert write_backup(sqlite_url, target, clock) == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    assert federation.run.status == "running"  # the ledger that was copied goes on
    with open_alliance(f"sqlite:///{target}", clock, hub) as alliance:
        hub.calls.clear()
        alliance.beat()
        federation.alliance = alliance
        run = federation.run
        assert (run.status, run.reason) == ("paused", "ledger_restored")
        assert "It is a backup of 2026-01-01 00:00 UTC." in (run.waiting or "")
        assert hub.calls == []
        assert alliance.admin.post(f"{API}/ledger/recover", {"generation": 1}).json()["generation"] == 2
        assert federation.move("resume").status == "running"
        alliance.beat()
        assert federation.run.round_number == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://hsl@db/hsl", "use pg_dump"),
        ("sqlite:///{folder}/nothing.db", "There is no ledger at"),
        ("sqlite:///{folder}/other.db", "is it a ledger of this version"),
    ],
)
def test_what_cannot_be_copied_is_said(url: str, reason: str, tmp_path: Path, clock: ManualClock) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE something (id INTEGER)"))
    engine.dispose()
    with pytest.raises(BackupError, match=reason):
        write_backup(url.format(folder=tmp_path), tmp_path / "backup.db", clock)
    assert not list(tmp_path.glob("backup.db*"))


def test_a_backup_is_never_overwritten(sqlite_url: str, tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "backup.db").write_text("older")
    with pytest.raises(BackupError, match="exists already"):
        write_backup(sqlite_url, tmp_path / "backup.db", clock)
    assert (tmp_path / "backup.db").read_text() == "older"
