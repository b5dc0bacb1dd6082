"""Runs a service's module so that it ends when the demo does, even when the demo is killed with no time to say so.

demo ── pipe ──> stdin of `python -m hsl_cli.demo.leash coordinator`
                 a thread reads it; end of file means the demo is gone: SIGTERM to ourselves, and after GRACE_S exit
"""

import os
import runpy
import signal
import sys
import threading

GRACE_S = 20.0  # a service that does not end on SIGTERM must not outlive its demo for ever


def end_with_parent() -> None:
    # os.read, not sys.stdin: a thread that holds the lock of a buffered reader makes the interpreter abort at its end.
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE_S)
    os._exit(1)


def main() -> None:
    sys.argv = sys.argv[1:]
    threading.Thread(target=end_with_parent, name="leash", daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
