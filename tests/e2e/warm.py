"""Training children forked from one process that has imported torch already, which takes seconds each time.

    daemon ── starts ──> client ── its stdin, stdout, stderr, arguments ──> server ── fork ──> watcher ── fork ──> child

The client lives as long as the child and ends as it ended; a client that is killed takes the child with it. The child
itself is the real one, in a process of its own.

    python -m tests.e2e.warm SOCKET                                the server
    python tests/e2e/warm.py SOCKET MODULE ARGUMENTS…              a client; MODULE has a `main()`
"""

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

_MAX_REQUEST = 1 << 18
_STATUS_BYTES = 4


@contextlib.contextmanager
def warm_server() -> Iterator[Path]:
    """The socket of a server that lives as long as the block."""
    with tempfile.TemporaryDirectory(prefix="hsl-warm-", dir="/tmp") as folder:  # short: a socket's path is limited
        path = Path(folder) / "socket"
        server = subprocess.Popen([sys.executable, "-m", "tests.e2e.warm", str(path)], stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield path
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def command(path: Path, module: str = "node_agent.trainer.child") -> str:
    """What `HSL_NODE_TRAINER_COMMAND` has to be."""
    return json.dumps([sys.executable, "-I", "-S", __file__, str(path), module])


# --- client ----------------------------------------------------------------------------------------------------------


def _client(path: str, module: str, *arguments: str) -> NoReturn:
    request = {"module": module, "argv": [module, *arguments], "environment": dict(os.environ), "cwd": str(Path.cwd())}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(path)
        descriptors = array.array("i", [0, 1, 2])
        line.sendmsg([json.dumps(request).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        answer = line.recv(_STATUS_BYTES)
    code = os.waitstatus_to_exitcode(int.from_bytes(answer, "big")) if answer else 1
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- server ----------------------------------------------------------------------------------------------------------


def _serve(path: str) -> None:
    import tests.e2e.killed_child  # noqa: F401 - all of them only to be there when a child is forked

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a watcher ended
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            line, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _watch(line)
            line.close()


def _watch(line: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    raw, descriptors, _, _ = socket.recv_fds(line, _MAX_REQUEST, 3)
    child = os.fork()
    if child == 0:
        line.close()
        _become(json.loads(raw), descriptors)
    for descriptor in (*descriptors, 0, 1):  # else the child's pipes would never be seen to end
        os.close(descriptor)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([line, ended], [], [])
    if ended not in ready:  # the client is gone
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        line.send(status.to_bytes(_STATUS_BYTES, "big"))
    os._exit(0)


def _become(request: dict[str, object], descriptors: list[int]) -> NoReturn:
    """What `python -m MODULE` would have been."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    sys.argv = list(request["argv"])  # type: ignore[call-overload]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - for its whole life
    code = 1
    try:
        sys.modules[str(request["module"])].main()  # type: ignore[attr-defined]
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(sys.argv[1])
    else:
        _client(*sys.argv[1:])
