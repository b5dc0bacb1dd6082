"""THE table: which kind of failure an exception of Paramiko or of the socket is. Every row has a test.

Kinds are `hsl_model.protocol.retry.FailureKind`; what is worth another try is decided there. Rows are tried in order,
because Paramiko's `SSHException` and Python's `OSError` stand for nearly everything: first the exact classes, then the
texts, then the class alone. A kept connection is only trusted after failures that the hub itself answered.
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

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

from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import ExchangeError


class Step(Enum):
    """What was being done: the same exception can mean different things."""

    OPEN = auto()  # opening a file on the hub
    OTHER = auto()


@dataclass(frozen=True)
class Row:
    """An exception of this class, whose text holds `text` (lower case), in this step, with one of these numbers."""

    error: type[BaseException]
    failure: FailureKind
    text: str = ""
    step: Step | None = None
    errnos: frozenset[int] | None = None

    def matches(self, error: BaseException, step: Step) -> bool:
        if not isinstance(error, self.error) or self.text not in str(error).lower() or self.step not in (None, step):
            return False
        return self.errnos is None or (isinstance(error, OSError) and error.errno in self.errnos)


_CONNECTION, _TIMEOUT, _LIMIT = FailureKind.CONNECTION, FailureKind.TIMEOUT, FailureKind.LIMIT
_NO_WAY_THERE = frozenset(
    {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EBADF}
)

TABLE: tuple[Row, ...] = (
    # --- who the hub is, and who we are
    Row(BadHostKeyException, FailureKind.HOST_KEY),
    Row(SSHException, FailureKind.HOST_KEY, "bad host key"),
    Row(SSHException, FailureKind.HOST_KEY, "not found in known_hosts"),
    Row(IncompatiblePeer, FailureKind.HOST_KEY, "no acceptable host key"),
    Row(IncompatiblePeer, FailureKind.REJECTED),
    Row(BadAuthenticationType, FailureKind.DENIED),
    Row(AuthenticationException, _TIMEOUT, "authentication timeout"),
    Row(AuthenticationException, _CONNECTION, "transport shut down"),
    # Also a session limit, and a hub that has not been told of this node yet: never final.
    Row(AuthenticationException, _LIMIT),
    # --- limits of the hub
    Row(SSHException, _LIMIT, "protocol banner"),  # too many connections from here, a ban, a frozen server
    Row(SSHException, _LIMIT, "eof during negotiation"),  # too many sessions, seen on a new channel
    Row(ChannelException, _LIMIT),
    Row(SSHException, _LIMIT, "too many open sessions"),
    # --- the line
    Row(SSHException, _TIMEOUT, "timeout"),
    Row(SSHException, _CONNECTION),  # dropped, not active, no existing session, channel closed
    Row(EOFError, _CONNECTION),
    Row(SFTPError, _CONNECTION),  # an answer that is no answer: the channel is out of step
    Row(socket.gaierror, _CONNECTION),  # the name is not resolved
    Row(TimeoutError, _TIMEOUT),
    Row(NoValidConnectionsError, _CONNECTION),
    Row(ConnectionError, _CONNECTION),  # refused, reset, aborted, broken pipe
    # --- what the hub answers to an SFTP request
    Row(FileNotFoundError, FailureKind.NOT_YET_THERE),
    Row(PermissionError, _LIMIT, step=Step.OPEN),  # too many open files look like this
    Row(PermissionError, FailureKind.DENIED),
    Row(OSError, FailureKind.SPACE, "space limit"),  # over quota
    Row(OSError, FailureKind.SPACE, "no space left"),
    Row(OSError, FailureKind.SPACE, "quota"),
    Row(OSError, FailureKind.SPACE, "file too large"),
    Row(OSError, FailureKind.REJECTED, "unsupported"),
    Row(OSError, _CONNECTION, "socket is closed"),
    Row(OSError, _CONNECTION, errnos=_NO_WAY_THERE),
    Row(OSError, FailureKind.SERVER_ERROR),  # any other status: its text is the hub's
)

# The hub answered, so the connection itself is as good as before.
_ANSWERED = frozenset(
    {
        FailureKind.NOT_YET_THERE,
        FailureKind.DENIED,
        FailureKind.SPACE,
        FailureKind.MISMATCH,
        FailureKind.REJECTED,
        FailureKind.SERVER_ERROR,
    }
)


def kind_of(error: BaseException, step: Step = Step.OTHER) -> FailureKind:
    return next((row.failure for row in TABLE if row.matches(error, step)), FailureKind.BUG)


def is_connection_lost(error: ExchangeError) -> bool:
    """Whether the connection must be made anew before it is used again."""
    return error.kind not in _ANSWERED


def translated(error: Exception, doing: str, step: Step = Step.OTHER) -> ExchangeError:
    return ExchangeError(kind=kind_of(error, step), doing=doing)


@contextmanager
def remote_errors(doing: str, step: Step = Step.OTHER) -> Iterator[None]:
    """Around calls that only talk to the hub: what they raise becomes an `ExchangeError`."""
    try:
        yield
    except (SSHException, SFTPError, OSError, EOFError) as error:
        raise translated(error, doing, step) from error
