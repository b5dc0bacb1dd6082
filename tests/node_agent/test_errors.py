import errno
import sqlite3
from pathlib import Path

import pytest

from hsl_model.durable import DiskFullError
from hsl_model.protocol.errors import CheckpointError, ConfigError, ManifestError
from hsl_model.protocol.retry import FailureKind
from node_agent.coordinator_client import CoordinatorError
from node_agent.errors import (
    BindingMissingError,
    EgressRefusedError,
    TrainerDiedError,
    TrainerFailedError,
    TrainerStalledError,
    failure_of,
)


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (CheckpointError(path="x", reason="y"), FailureKind.REJECTED, "checkpoint_invalid"),
        (ManifestError(reason="y"), FailureKind.REJECTED, "manifest_invalid"),
        (ConfigError(reason="y"), FailureKind.BUG, "config_invalid"),
        (BindingMissingError(task_id="t"), FailureKind.REJECTED, "binding_missing"),
        (EgressRefusedError(reason="y"), FailureKind.BUG, "egress_refused"),
        (TrainerDiedError(status=-9), FailureKind.CONNECTION, "trainer_died"),
        (TrainerStalledError(seconds=9), FailureKind.TIMEOUT, "trainer_stalled"),
        (TrainerFailedError(FailureKind.SPACE, "no_memory", "y"), FailureKind.SPACE, "no_memory"),
        (CoordinatorError(FailureKind.DENIED, "node_revoked", "y"), FailureKind.DENIED, "node_revoked"),
        (OSError(errno.ENOSPC, "full"), FailureKind.SPACE, "no_space"),
        (OSError(errno.EDQUOT, "full"), FailureKind.SPACE, "no_space"),
        (DiskFullError(Path("/"), 95_000_000), FailureKind.SPACE, "no_space"),
        (PermissionError(errno.EACCES, "no", "/secret/place/key"), FailureKind.DENIED, "folder_denied"),
        (OSError(errno.EIO, "broken"), FailureKind.LIMIT, "io_error"),
        (sqlite3.OperationalError("disk I/O error, Doe"), FailureKind.SPACE, "journal_unavailable"),
        (ValueError("patient Doe"), FailureKind.BUG, "internal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_a_kind_and_a_sentence_without_foreign_text(
    error: Exception, kind: FailureKind, code: str
) -> None:
    failure = failure_of(error)
    assert (failure.kind, failure.code) == (kind, code)
    assert "Doe" not in failure.sentence
    assert "/secret/place" not in failure.sentence
