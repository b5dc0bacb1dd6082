"""Exit 0 if everything named answers, else say what does not and exit 1. The containers' health check.

http://HOST:PORT/PATH    answers, with any status below 500: 401 is said by a live server too
ssh://HOST:PORT          greets; a connection alone proves nothing, the kernel accepts for a process that hangs
FILE                     an agent's site.json: its health endpoint answers
"""

import http.client
import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 4.0  # below the health check's own, so that the reason is said


def check(target: str) -> None:
    if target.startswith("/"):
        target = json.loads(Path(target).read_text())["url"] + "/healthz"
    address = urlsplit(target)
    host, port = address.hostname or "", address.port or 0
    if address.scheme == "ssh":
        with socket.create_connection((host, port), TIMEOUT_S) as line:
            if not line.recv(16).startswith(b"SSH-"):
                raise OSError("no greeting")
        return
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    connection.request("GET", address.path or "/")
    status = connection.getresponse().status
    if status >= 500:
        raise OSError(f"status {status}")


def main(targets: list[str]) -> int:
    for target in targets:
        try:
            check(target)
        except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
            sys.stderr.write(f"{target}: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
