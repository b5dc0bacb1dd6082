"""A copy of the SQLite ledger while the coordinator runs. The copy says of itself that it is one.

Whatever coordinator is started on it holds everything until an admin has recovered it: also when no site that knows
more has spoken yet. PostgreSQL has its own tools (docs/operations.md says which, and the one line that says the same).
"""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import make_url

from hsl_model.durable import publish
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.errors import HslError


class BackupError(HslError):
    code = "backup_impossible"
    http_status = 422
    title = "No backup was made"
    template = "{reason}"


def write_backup(database_url: str, target: Path, clock: Clock) -> int:
    """Bytes written. Raises `BackupError`; an existing file is never overwritten."""
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite" or url.database is None:
        raise BackupError(reason="This ledger is in PostgreSQL: use pg_dump, as docs/operations.md shows.")
    source = Path(url.database)
    if not source.is_file():
        raise BackupError(reason=f"There is no ledger at {source}.")
    if target.exists():
        raise BackupError(reason=f"{target} exists already; a backup is never overwritten.")
    temporary = target.with_name(f"{target.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        _copy(source, temporary, clock.now().astimezone(UTC))
    except sqlite3.Error as error:
        temporary.unlink(missing_ok=True)
        reason = (
            f"{source} could not be copied ({type(error).__name__}): is it a ledger of this version, is there room?"
        )
        raise BackupError(reason=reason) from error
    publish(temporary, target)
    return target.stat().st_size


def _copy(source: Path, temporary: Path, now: datetime) -> None:
    temporary.touch(mode=0o600)  # it holds the hashes of tokens
    with closing(sqlite3.connect(source.resolve().as_uri() + "?mode=ro", uri=True)) as connection:
        connection.execute("VACUUM INTO ?", (str(temporary),))
    with closing(sqlite3.connect(temporary)) as copy:
        copy.execute(
            "UPDATE ledger SET held_since = ?, held_because = ?",
            (f"{now:%Y-%m-%d %H:%M:%S.%f}", f"It is a backup of {now:%Y-%m-%d %H:%M} UTC."),
        )
        copy.commit()
