"""What this node has seen of the coordinator's ledger: which one it is, and how far it was.

Sent with every poll, so that a coordinator restored from an old backup finds out; and checked on every reply, so that
another coordinator at the same address is not obeyed. The number of the newest event changes with every commit of the
alliance, so it is written to the journal now and then only; generation, rounds and revocations at once.
"""

import sqlite3

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.ledger import Mark
from hsl_model.protocol.messages import MAX_SEEN, DesiredState, Seen
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import AgentError
from node_agent.journal import Journal

EVENT_EVERY_S = 10.0  # after a power cut this much is forgotten; rounds and revocations are not


class OtherLedgerError(AgentError):
    """The site's admin decides whether this is their alliance; until then nothing is asked of it or told to it."""

    code = "other_ledger"
    kind = FailureKind.LIMIT
    title = "Another coordinator answers"
    template = (
        "The coordinator at {url} keeps another ledger ({found}) than the one this site joined ({known}): it is "
        "another coordinator, or was set up anew. Ask the alliance's admin; if it is right, enrol again with a new "
        "code (`hsl node enrol --again`), which keeps this site's keys and models."
    )


class LedgerMemory:
    """Shared by the threads of one agent; the journal's lock guards it."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._written_at_s: float | None = None
        with journal.transaction() as connection:
            row = connection.execute("SELECT * FROM ledger WHERE id = 1").fetchone()
            self._mark = None if row is None else Mark(row["ledger_id"], row["generation"], row["event_id"])
            self._rounds = {
                one["run_id"]: one["round_number"] for one in connection.execute("SELECT * FROM seen_rounds")
            }
            self._revoked = {one["node_id"] for one in connection.execute("SELECT node_id FROM seen_revoked")}

    def seen(self) -> Seen | None:
        """The newest of everything; with more runs or revocations than a poll carries, the last by name."""
        with self._journal.transaction():
            if self._mark is None:
                return None
            return Seen(
                ledger_id=self._mark.ledger_id,
                generation=self._mark.generation,
                event_id=self._mark.event_id,
                rounds=dict(sorted(self._rounds.items())[-MAX_SEEN:]),
                revoked=tuple(sorted(self._revoked)[-MAX_SEEN:]),
            )

    def saw(self, mark: Mark, url: str) -> None:
        """A reply came from this ledger. Raises `OtherLedgerError`."""
        with self._journal.transaction() as connection:
            known = self._mark
            if known is not None and mark.ledger_id != known.ledger_id:
                raise OtherLedgerError(url=url, found=mark.ledger_id[:8], known=known.ledger_id[:8])
            if known is None or mark.generation > known.generation:
                self._begin(connection, mark)
            elif mark.generation == known.generation and mark.event_id > known.event_id:
                self._mark = mark
                now_s = self._clock.monotonic()
                if self._written_at_s is None or now_s - self._written_at_s >= EVENT_EVERY_S:
                    self._write(connection, mark)

    def told(self, desired: DesiredState) -> None:
        """Keep what a desired state says for good: rounds that were opened, nodes that were revoked."""
        with self._journal.transaction() as connection:
            if self._mark is None or desired.generation != self._mark.generation or desired.recovery is not None:
                return
            found, event_id = desired.assignment, self._mark.event_id
            if found is not None and found.round_number > self._rounds.get(found.run_id, -1):
                self._rounds[found.run_id] = found.round_number
                connection.execute(
                    "INSERT OR REPLACE INTO seen_rounds (run_id, round_number) VALUES (?, ?)",
                    (found.run_id, found.round_number),
                )
            for run_id in set(desired.finished_runs) & set(self._rounds):
                del self._rounds[run_id]
                connection.execute("DELETE FROM seen_rounds WHERE run_id = ?", (run_id,))
            for node_id in set(desired.revoked) - self._revoked:
                self._revoked.add(node_id)
                connection.execute(
                    "INSERT OR IGNORE INTO seen_revoked (node_id, event_id) VALUES (?, ?)", (node_id, event_id)
                )

    def join(self, mark: Mark) -> None:
        """The site's admin has enrolled with this ledger: if it is another one, the old one is forgotten."""
        with self._journal.transaction() as connection:
            if self._mark is not None and self._mark.ledger_id != mark.ledger_id:
                self._begin(connection, mark)

    def _begin(self, connection: sqlite3.Connection, mark: Mark) -> None:
        """A ledger, or a generation of it, that this node has not seen: what it knew of the one before is over."""
        self._rounds, self._revoked = {}, set()
        connection.execute("DELETE FROM seen_rounds")
        connection.execute("DELETE FROM seen_revoked")
        self._write(connection, mark)

    def _write(self, connection: sqlite3.Connection, mark: Mark) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO ledger (id, ledger_id, generation, event_id) VALUES (1, ?, ?, ?)",
            (mark.ledger_id, mark.generation, mark.event_id),
        )
        self._mark, self._written_at_s = mark, self._clock.monotonic()
