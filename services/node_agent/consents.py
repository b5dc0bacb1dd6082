"""What this site has been asked, what it found out about its data, and what its admin answered. One row per run.

invited ──> data prepared (counts, report) or a problem ──> the admin accepts ──> the coordinator is told: member
                                                        └─> the admin withdraws, at any time ──> told
"""

from dataclasses import dataclass
from enum import StrEnum

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import TruthCounts
from node_agent.journal import Journal


class Answer(StrEnum):
    ACCEPT = "accept"
    WITHDRAW = "withdraw"


@dataclass(frozen=True)
class Consent:
    run_id: str
    task_id: str
    answer: Answer | None
    told: bool  # whether the coordinator has confirmed the answer
    counts: TruthCounts | None
    report: str | None  # lines for the site's own people; never leaves
    problem: str | None  # why the data cannot be used, or the coordinator refused the answer


class Consents:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    def get(self, run_id: str) -> Consent | None:
        return next((found for found in self.all() if found.run_id == run_id), None)

    def all(self) -> tuple[Consent, ...]:
        with self._journal.transaction() as connection:
            rows = connection.execute("SELECT * FROM consents ORDER BY at, run_id").fetchall()
        return tuple(
            Consent(
                run_id=row["run_id"],
                task_id=row["task_id"],
                answer=None if row["answer"] is None else Answer(row["answer"]),
                told=bool(row["told"]),
                counts=None if row["counts"] is None else TruthCounts.model_validate_json(row["counts"]),
                report=row["report"],
                problem=row["problem"],
            )
            for row in rows
        )

    def invite(self, run_id: str, task_id: str) -> None:
        self._write(
            "INSERT OR IGNORE INTO consents (run_id, task_id, at) VALUES (?, ?, ?)",
            (run_id, task_id, self._clock.now().isoformat()),
        )

    def answer(self, run_id: str, answer: Answer) -> None:
        """What the admin said. An old problem is forgotten: the data are looked at again."""
        self._write("UPDATE consents SET answer = ?, told = 0, problem = NULL WHERE run_id = ?", (answer, run_id))

    def prepared(self, run_id: str, counts: TruthCounts, report: str) -> None:
        self._write(
            "UPDATE consents SET counts = ?, report = ?, problem = NULL WHERE run_id = ?",
            (counts.model_dump_json(), report, run_id),
        )

    def failed(self, run_id: str, problem: str) -> None:
        self._write("UPDATE consents SET problem = ? WHERE run_id = ?", (problem, run_id))

    def told(self, run_id: str, answer: Answer) -> None:
        """The coordinator has heard it; unless the admin has answered otherwise meanwhile."""
        self._write("UPDATE consents SET told = 1 WHERE run_id = ? AND answer = ?", (run_id, answer))

    def tell_again(self) -> None:
        """The coordinator's ledger was restored from a backup, perhaps from before these answers."""
        self._write("UPDATE consents SET told = 0 WHERE answer IS NOT NULL", ())

    def rebound(self, task_id: str) -> None:
        """Other data were bound to the task: what was found out about the old ones no longer holds."""
        self._write(
            "UPDATE consents SET counts = NULL, report = NULL, problem = NULL WHERE task_id = ? AND told = 0",
            (task_id,),
        )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._journal.transaction() as connection:
            connection.execute(statement, values)
