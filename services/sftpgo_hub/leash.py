"""Becomes another program that the kernel kills when its parent dies: `python leash.py PARENT PROGRAM ARGUMENTS...`.

A supervisor that is killed with no time to say so must not leave a server behind that serves cut nodes and holds the
ports of the next one. Linux only; elsewhere the next start fails until somebody ends the old server. Standard library
alone, as it runs before every start of the server.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        sys.exit(1)
    os.execv(program, sys.argv[2:])  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main()
