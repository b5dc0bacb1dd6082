"""The node's durable state: one SQLite file. The row `(phase, facts)` says where this node is; restart = read it.

    current() -> PhaseRow --[phase function]--> move(phase, facts)        one transaction
                          --[transient]-------> postpone(retry_at)        same phase, later
                          --[permanent]-------> fail(reason, situation)   FAILED, the daemon lives on
    FAILED ----------------[retry, or a changed situation]--------------> back to its phase

Only the daemon's main loop writes the phase row; the other tables (consents, kept files, egress) belong to the module
that reads them and share the connection and its lock. `synchronous=FULL`: what was committed survives a power cut.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import PHASE_TRANSITIONS, NodePhase, check_transition
from node_agent.errors import Failure, JournalVersionError
from node_agent.facts import RoundFacts

# One script per version, applied in order; `user_version` counts them. Released scripts are never edited.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE phase (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        phase TEXT NOT NULL, facts TEXT, since TEXT NOT NULL,
        attempt INTEGER NOT NULL DEFAULT 0, retry_at TEXT,
        error_kind TEXT, error_code TEXT, error_sentence TEXT,
        failed_phase TEXT, failed_situation TEXT
    );
    CREATE TABLE agent (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        boot_number INTEGER NOT NULL, paused INTEGER NOT NULL DEFAULT 0
    );
    INSERT INTO agent (id, boot_number) VALUES (1, 0);
    CREATE TABLE consents (
        run_id TEXT PRIMARY KEY, task_id TEXT NOT NULL, answer TEXT, told INTEGER NOT NULL DEFAULT 0,
        at TEXT NOT NULL, counts TEXT, report TEXT, problem TEXT
    );
    CREATE TABLE kept_files (
        sha256 TEXT NOT NULL, run_id TEXT NOT NULL, round_number INTEGER NOT NULL, kind TEXT NOT NULL,
        num_bytes INTEGER NOT NULL, PRIMARY KEY (sha256, run_id, round_number, kind)
    );
    CREATE TABLE egress (
        seq INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, destination TEXT NOT NULL,
        sha256 TEXT NOT NULL, num_bytes INTEGER NOT NULL, names TEXT NOT NULL,
        previous TEXT NOT NULL, head TEXT NOT NULL
    );
    """,
    """
    CREATE TABLE ledger (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        ledger_id TEXT NOT NULL, generation INTEGER NOT NULL, event_id INTEGER NOT NULL
    );
    CREATE TABLE seen_rounds (run_id TEXT PRIMARY KEY, round_number INTEGER NOT NULL);
    CREATE TABLE seen_revoked (node_id TEXT PRIMARY KEY, event_id INTEGER NOT NULL);
    CREATE TABLE round_records (
        run_id TEXT NOT NULL, round_number INTEGER NOT NULL, plan_key TEXT NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (run_id, round_number)
    );
    """,
    """
    CREATE TABLE peer_keys (node_id TEXT PRIMARY KEY, key TEXT NOT NULL, since TEXT NOT NULL, how TEXT NOT NULL);
    CREATE TABLE offered_hub (id INTEGER PRIMARY KEY CHECK (id = 1), hub TEXT NOT NULL);
    """,
    "CREATE TABLE forgotten_files (sha256 TEXT PRIMARY KEY)",
)


@dataclass(frozen=True)
class PhaseRow:
    phase: NodePhase
    facts: RoundFacts | None
    since: datetime
    attempt: int = 0
    retry_at: datetime | None = None
    failure: Failure | None = None
    failed_phase: NodePhase | None = None  # where a FAILED node goes back to
    failed_situation: str | None = None  # what the coordinator wanted when it failed (`reconcile.situation`)


class Journal:
    def __init__(self, path: Path, clock: Clock, migrations: Sequence[str] = MIGRATIONS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        # 10 s: another process (`hsl node enrol`, an offline check) holds the file for milliseconds.
        self._connection.execute("PRAGMA busy_timeout = 10000")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._migrate(migrations)

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.transaction() as connection:
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found > len(migrations):
                raise JournalVersionError(path=self.path, found=found, known=len(migrations))
            for script in migrations[found:]:
                for statement in filter(None, (part.strip() for part in script.split(";"))):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(migrations)}")
            connection.execute(
                "INSERT OR IGNORE INTO phase (id, phase, since) VALUES (1, ?, ?)", (NodePhase.IDLE, self._now())
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time, durable when the block ends. May be nested."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # --- the phase row -----------------------------------------------------------------------------------------------

    def current(self) -> PhaseRow:
        with self._lock:
            row = self._connection.execute("SELECT * FROM phase WHERE id = 1").fetchone()
        failure = None
        if row["error_kind"] is not None:
            failure = Failure(FailureKind(row["error_kind"]), row["error_code"], row["error_sentence"])
        return PhaseRow(
            phase=NodePhase(row["phase"]),
            facts=None if row["facts"] is None else RoundFacts.model_validate_json(row["facts"]),
            since=datetime.fromisoformat(row["since"]),
            attempt=row["attempt"],
            retry_at=None if row["retry_at"] is None else datetime.fromisoformat(row["retry_at"]),
            failure=failure,
            failed_phase=None if row["failed_phase"] is None else NodePhase(row["failed_phase"]),
            failed_situation=row["failed_situation"],
        )

    def move(self, phase: NodePhase, facts: RoundFacts | None) -> None:
        """Write `(phase, facts)`; errors and attempts of the phase before are forgotten."""
        with self.transaction() as connection:
            source = self.current().phase
            if phase is not source:
                check_transition(PHASE_TRANSITIONS, source, phase)
            connection.execute(
                "UPDATE phase SET phase = ?, facts = ?, since = ?, attempt = 0, retry_at = NULL, error_kind = NULL,"
                " error_code = NULL, error_sentence = NULL, failed_phase = NULL, failed_situation = NULL WHERE id = 1",
                (phase, None if facts is None else facts.model_dump_json(), self._now()),
            )

    def postpone(self, retry_at: datetime, failure: Failure, attempt: int) -> None:
        """A transient failure: the same phase again, not before `retry_at`."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE phase SET attempt = ?, retry_at = ?, error_kind = ?, error_code = ?, error_sentence = ?"
                " WHERE id = 1",
                (attempt, retry_at.isoformat(), failure.kind, failure.code, failure.sentence),
            )

    def fail(self, failure: Failure, situation: str | None) -> None:
        """A permanent failure. `situation` is what was wanted of this node; when that changes, it tries again."""
        with self.transaction() as connection:
            source = self.current().phase
            connection.execute(
                "UPDATE phase SET phase = ?, failed_phase = ?, failed_situation = ?, since = ?, retry_at = NULL,"
                " error_kind = ?, error_code = ?, error_sentence = ? WHERE id = 1",
                (NodePhase.FAILED, source, situation, self._now(), failure.kind, failure.code, failure.sentence),
            )

    def retry_now(self) -> None:
        """`hsl node retry`: leave FAILED for the phase that failed, or forget the time of the next try."""
        with self.transaction() as connection:
            row = self.current()
            if row.phase is NodePhase.FAILED:
                self.move(row.failed_phase or NodePhase.IDLE, row.facts)
            else:
                connection.execute("UPDATE phase SET retry_at = NULL, attempt = 0 WHERE id = 1")

    # --- the agent itself --------------------------------------------------------------------------------------------

    def next_boot(self) -> int:
        """Raised once per start: with it the coordinator tells a restart from a second live agent."""
        with self.transaction() as connection:
            connection.execute("UPDATE agent SET boot_number = boot_number + 1 WHERE id = 1")
            return int(connection.execute("SELECT boot_number FROM agent WHERE id = 1").fetchone()[0])

    @property
    def boot_number(self) -> int:
        """Of this start; 1 where the agent has never run before."""
        with self._lock:
            return int(self._connection.execute("SELECT boot_number FROM agent WHERE id = 1").fetchone()[0])

    @property
    def paused(self) -> bool:
        """Whether the site's admin has paused training here."""
        with self._lock:
            return bool(self._connection.execute("SELECT paused FROM agent WHERE id = 1").fetchone()[0])

    def set_paused(self, paused: bool) -> None:
        with self.transaction() as connection:
            connection.execute("UPDATE agent SET paused = ? WHERE id = 1", (int(paused),))

    def _now(self) -> str:
        return self._clock.now().isoformat()
