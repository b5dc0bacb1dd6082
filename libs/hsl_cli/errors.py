"""Errors of the command line: one sentence for the person, one exit code for the script."""

from typing import ClassVar

from hsl_model.protocol.errors import HslError

OK = 0
REFUSED = 1
BAD_INPUT = 2
UNREACHABLE = 3
STOPPED = 4
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, or failed on the other side; 2 wrong usage or bad input; "
    "3 the service cannot be reached; 4 stopped as asked, the same command goes on; 130 interrupted."
)


class CommandError(HslError):
    """Base of what a command says itself; `reason` is the whole sentence."""

    exit_code: ClassVar[int] = REFUSED
    template = "{reason}"


class RefusedError(CommandError):
    """The other side understood and said no, or what was asked for failed there."""

    code = "refused"


class BadInputError(CommandError):
    code = "bad_input"
    exit_code = BAD_INPUT


class UnreachableError(CommandError):
    code = "unreachable"
    exit_code = UNREACHABLE


def exit_code_of(error: HslError) -> int:
    """Errors of our libraries carry an HTTP status: what would be 400, 404 or 422 there is bad input here."""
    if isinstance(error, CommandError):
        return error.exit_code
    return BAD_INPUT if error.http_status in (400, 404, 422) else REFUSED
