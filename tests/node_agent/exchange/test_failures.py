"""Every row of the table of failures, by an exception as it is really raised; and that the first fitting row wins."""

import errno
import socket

import paramiko
import pytest
from paramiko.sftp import SFTPError
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    BadHostKeyException,
    ChannelException,
    IncompatiblePeer,
    NoValidConnectionsError,
    SSHException,
)

from hsl_model.protocol.retry import TRANSIENT, FailureKind
from node_agent.exchange.base import REASONS, ExchangeError
from node_agent.exchange.failures import TABLE, Step, is_connection_lost, kind_of, remote_errors, translated

KEY = paramiko.PKey.from_type_string("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32))
K, OTHER, OPEN = FailureKind, Step.OTHER, Step.OPEN

# One example for every row, in the table's order: the row's number is checked, so none is dead.
ROWS: list[tuple[Exception, Step, FailureKind]] = [
    (BadHostKeyException("hub", KEY, KEY), OTHER, K.HOST_KEY),
    (SSHException("Bad host key from server"), OTHER, K.HOST_KEY),
    (SSHException("Server '[hub]:2022' not found in known_hosts"), OTHER, K.HOST_KEY),
    (IncompatiblePeer("Incompatible ssh peer (no acceptable host key)"), OTHER, K.HOST_KEY),
    (IncompatiblePeer("Incompatible ssh server (no acceptable ciphers)"), OTHER, K.REJECTED),
    (BadAuthenticationType("Bad authentication type", ["password"]), OTHER, K.DENIED),
    (AuthenticationException("Authentication timeout."), OTHER, K.TIMEOUT),
    (AuthenticationException("Authentication failed: transport shut down or saw EOF"), OTHER, K.CONNECTION),
    (AuthenticationException("Authentication failed."), OTHER, K.LIMIT),
    (SSHException("Error reading SSH protocol banner"), OTHER, K.LIMIT),
    (SSHException("EOF during negotiation"), OTHER, K.LIMIT),
    (ChannelException(1, "Administratively prohibited"), OTHER, K.LIMIT),
    (SSHException("too many open sessions"), OTHER, K.LIMIT),
    (SSHException("Timeout opening channel."), OTHER, K.TIMEOUT),
    (SSHException("Server connection dropped: "), OTHER, K.CONNECTION),
    (EOFError(), OTHER, K.CONNECTION),
    (SFTPError("Expected handle"), OTHER, K.CONNECTION),
    (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), OTHER, K.CONNECTION),
    (TimeoutError("timed out"), OTHER, K.TIMEOUT),
    (NoValidConnectionsError({("10.0.0.1", 22): OSError()}), OTHER, K.CONNECTION),
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), OTHER, K.CONNECTION),
    (FileNotFoundError(errno.ENOENT, "no such file"), OPEN, K.NOT_YET_THERE),
    (PermissionError(errno.EACCES, "permission denied"), OPEN, K.LIMIT),
    (PermissionError(errno.EACCES, "permission denied"), OTHER, K.DENIED),
    (OSError("failure: failure: denying write due to space limit"), OTHER, K.SPACE),
    (OSError("write /nodes/node-a/x: no space left on device"), OTHER, K.SPACE),
    (OSError("Disk quota exceeded"), OTHER, K.SPACE),
    (OSError("File too large"), OTHER, K.SPACE),
    (OSError("operation unsupported"), OTHER, K.REJECTED),
    (OSError("Socket is closed"), OTHER, K.CONNECTION),
    (OSError(errno.EHOSTUNREACH, "No route to host"), OTHER, K.CONNECTION),
    (OSError("failure"), OTHER, K.SERVER_ERROR),
]

FURTHER: list[tuple[Exception, Step, FailureKind]] = [
    (SSHException("No existing session"), OTHER, K.CONNECTION),
    (SSHException("SSH session not active"), OTHER, K.CONNECTION),
    (SSHException("Channel closed."), OTHER, K.CONNECTION),
    (SSHException("Unable to open channel."), OTHER, K.CONNECTION),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), OTHER, K.CONNECTION),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), OTHER, K.CONNECTION),
    (OSError(errno.ETIMEDOUT, "Connection timed out"), OTHER, K.TIMEOUT),
    (OSError(errno.ENETUNREACH, "Network is unreachable"), OPEN, K.CONNECTION),
    (OSError(errno.EBADF, "Bad file descriptor"), OTHER, K.CONNECTION),
    (OSError(errno.EIO, "Input/output error"), OTHER, K.SERVER_ERROR),
    (ZeroDivisionError(), OTHER, K.BUG),
]


@pytest.mark.parametrize(("number", "row"), list(enumerate(ROWS)), ids=lambda value: str(value)[:60])
def test_each_row(number: int, row: tuple[Exception, Step, FailureKind]) -> None:
    error, step, kind = row
    assert kind_of(error, step) is kind
    assert next(index for index, found in enumerate(TABLE) if found.matches(error, step)) == number


def test_no_row_lacks_an_example() -> None:
    assert len(ROWS) == len(TABLE)


@pytest.mark.parametrize(("error", "step", "kind"), FURTHER, ids=repr)
def test_further_examples(error: Exception, step: Step, kind: FailureKind) -> None:
    assert kind_of(error, step) is kind


def test_every_kind_has_a_sentence_and_a_verdict() -> None:
    assert set(REASONS) == set(TRANSIENT) == set(FailureKind)


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_the_hub_answered_leaves_the_connection_trusted(kind: FailureKind) -> None:
    answered = {K.NOT_YET_THERE, K.DENIED, K.SPACE, K.MISMATCH, K.REJECTED, K.SERVER_ERROR}
    assert is_connection_lost(ExchangeError(kind=kind, doing="x")) is (kind not in answered)


def test_the_text_of_the_server_goes_no_further() -> None:
    error = translated(OSError("secret text of the server"), "Publishing abc")
    assert "secret" not in error.sentence()
    assert error.sentence().startswith("Publishing abc: ")


def test_remote_errors_translates_and_keeps_the_cause() -> None:
    cause = EOFError()
    with pytest.raises(ExchangeError) as caught, remote_errors("Publishing abc"):
        raise cause
    assert caught.value.__cause__ is cause
    with pytest.raises(ZeroDivisionError), remote_errors("Publishing abc"):
        raise ZeroDivisionError
