"""What can go wrong at a site, and one function that tells transient from permanent (`failure_of`).

The kinds and which of them are worth another try stand in `hsl_model.protocol.retry`; HTTP is translated in
`coordinator_client.py`, SFTP in `exchange/`.
"""

import errno
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from hsl_model.durable import FULL, DiskFullError
from hsl_model.protocol.errors import CheckpointError, HslError, ManifestError
from hsl_model.protocol.retry import FailureKind


@dataclass(frozen=True)
class Failure:
    """What the journal keeps of an error: enough to say it, and to decide whether to try again."""

    kind: FailureKind
    code: str
    sentence: str


class NotYet(Exception):  # noqa: N818 - not an error: someone else has to act first
    """A phase cannot go on until something changes; `reason` says what is missing and who must act.

    `look_again`: what it waits for may come without the desired state changing, so look now and then as well.
    """

    def __init__(self, reason: str, *, look_again: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.look_again = look_again


class Interrupted(Exception):  # noqa: N818 - not an error: the desired state wants something else
    """The phase stopped because `reconcile` no longer says to proceed, or the agent is stopping."""


class AgentError(HslError):
    """Base of the agent's own errors; `kind` decides whether the phase is tried again."""

    kind: FailureKind = FailureKind.REJECTED


class NotEnrolledError(AgentError):
    code = "not_enrolled"
    http_status = 409
    title = "This agent has not enrolled"
    template = "{workdir} holds no enrolment: run `hsl node enrol --coordinator URL --code CODE` first."


class AlreadyRunningError(AgentError):
    code = "already_running"
    http_status = 409
    title = "Another agent works in this folder"
    template = "Another agent (process {pid}) already works in {workdir}; stop it first, or use another folder."


class JournalVersionError(AgentError):
    code = "journal_too_new"
    title = "The journal was written by a newer agent"
    template = "{path} has journal version {found}, this agent knows up to {known}: install the newer agent again."


class BindingMissingError(AgentError):
    code = "binding_missing"
    http_status = 409
    title = "No data is bound to the task"
    template = "This site has bound no data to task {task_id}: run `hsl node bind` for it, then answer again."


class BindingInvalidError(AgentError):
    code = "binding_invalid"
    http_status = 422
    title = "The binding cannot be read"
    template = "The binding of task {task_id} is not valid ({reason}); run `hsl node bind` for it again."


class NothingHeldError(AgentError):
    code = "nothing_held"
    http_status = 409
    title = "No such key waits for a decision"
    template = "No key of {name} with this fingerprint waits for a decision here; `hsl node status` shows what does."


class RunUnknownError(AgentError):
    code = "run_unknown"
    http_status = 404
    title = "No such run here"
    template = "This site has no run {run_id}, neither as an invitation nor as a member; `hsl node status` lists them."


class InitialFileMissingError(AgentError):
    code = "initial_file_missing"
    title = "The run's initial weights are not here"
    template = (
        "The run starts from file {sha256}, and this node must publish it: put it at {path}, then `hsl node retry`."
    )


class EgressRefusedError(AgentError):
    code = "egress_refused"
    kind = FailureKind.BUG
    title = "Something undeclared was about to leave"
    template = "{reason} It was not sent."


class EgressBrokenError(AgentError):
    code = "egress_ledger_broken"
    title = "The egress ledger was changed"
    template = (
        "Entry {seq} of the egress ledger does not follow from the one before: the ledger was changed or damaged."
    )


class TrainerDiedError(AgentError):
    """The training child ended by itself. It is started again and the phase repeated, from the last snapshot."""

    code = "trainer_died"
    kind = FailureKind.CONNECTION
    title = "The training child ended"
    template = "The training child ended unexpectedly (exit status {status}); it is started again. Its log says why."


class TrainerStalledError(AgentError):
    code = "trainer_stalled"
    kind = FailureKind.TIMEOUT
    title = "Training made no progress"
    template = "Training made no step for {seconds} s; the child was ended and is started again from its last snapshot."


class TrainerFailedError(AgentError):
    """The child answered with an error of its own; it is alive."""

    title = "The training child reported an error"
    template = "{sentence}"

    def __init__(self, kind: FailureKind, reported_code: str, sentence: str) -> None:
        super().__init__(kind=kind, reported_code=reported_code, sentence=sentence)
        self.kind = kind
        self.reported_code = reported_code


def failure_of(error: Exception) -> Failure:
    """Kind, stable code and sentence of any error a phase may raise. Foreign text never gets into the sentence."""
    if isinstance(error, HslError):
        kind = getattr(error, "kind", None)
        code = str(getattr(error, "reported_code", None) or error.code)
        return Failure(kind if isinstance(kind, FailureKind) else _kind_of(error), code, error.sentence())
    if isinstance(error, OSError):
        return _failure_of_os(error)
    if isinstance(error, sqlite3.Error):
        sentence = "The agent's journal cannot be read or written; is its disk full?"
        return Failure(FailureKind.SPACE, "journal_unavailable", sentence)
    return Failure(
        FailureKind.BUG, "internal", f"An unexpected {type(error).__name__}; the agent's log has the details."
    )


def _kind_of(error: HslError) -> FailureKind:
    if isinstance(error, DiskFullError):
        return FailureKind.SPACE
    return FailureKind.REJECTED if isinstance(error, CheckpointError | ManifestError) else FailureKind.BUG


def _failure_of_os(error: OSError) -> Failure:
    what = errno.errorcode.get(error.errno or 0, "unknown error")
    name = Path(error.filename).name if isinstance(error.filename, str) else "a file"
    if error.errno in FULL:
        return Failure(
            FailureKind.SPACE, DiskFullError.code, "The disk of the agent's folder is full; free some of it."
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        sentence = f"The agent may not use {name} in its folder ({what}); check owner and permissions."
        return Failure(FailureKind.DENIED, "folder_denied", sentence)
    # EIO, EINTR, ENFILE and the like: disks and descriptors recover more often than not, and each try is shown.
    return Failure(FailureKind.LIMIT, "io_error", f"The operating system refused {name} ({what}).")
