"""The containers' health check: green for what answers, red for what is gone, hangs, or says that it cannot."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAM = DEPLOY / "healthy.py"
GREETER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
GREETER += "while True:\n    c, _ = s.accept()\n    c.sendall(b'SSH-2.0-x\\r\\n')\n    c.close()\n"


def healthy(*targets: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, PROGRAM, *targets], capture_output=True, text=True, check=False)


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    servers: list[tuple[HTTPServer, threading.Thread]] = []

    def serve(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/healthz" else 404)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_answers_is_green(answering: Callable[[int], str], tmp_path: Path) -> None:
    fine, refusing = answering(200), answering(401)
    (tmp_path / "site.json").write_text(json.dumps({"url": fine, "token": "t"}))
    done = healthy(f"{fine}/healthz", f"{refusing}/healthz", str(tmp_path / "site.json"))
    assert (done.returncode, done.stderr) == (0, "")


def test_what_cannot_work_or_is_gone_is_red_by_name(answering: Callable[[int], str], tmp_path: Path) -> None:
    fine, failing = answering(200), answering(503)
    for target in (f"{failing}/healthz", "http://127.0.0.1:9/", "ssh://127.0.0.1:9", str(tmp_path / "site.json")):
        done = healthy(f"{fine}/healthz", target)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{target.partition('/healthz')[0]}"), done.stderr


def test_what_hangs_is_red_although_the_kernel_accepts_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", GREETER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        target = f"ssh://127.0.0.1:{process.stdout.readline().strip()}"
        assert healthy(target).returncode == 0
        os.kill(process.pid, signal.SIGSTOP)
        try:
            with socket.create_connection(("127.0.0.1", int(target.rpartition(":")[2]))):
                assert healthy(target).returncode == 1
        finally:
            process.kill()


def test_secrets_are_made_once_for_each_service_alone(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets.sh", tmp_path)

    def make() -> dict[str, str]:
        subprocess.run([tmp_path / "make-secrets.sh"], check=True, capture_output=True)
        files = (path for path in (tmp_path / "secrets").rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / "secrets")): path.read_text() for path in files}

    made = make()
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert make() == made, "a second start must not change what the services know"
    assert made["hub/hsl_hub_admin_token"] == made["coordinator/hsl_coordinator_hub_admin_token"]
    assert made["postgres/postgres_password"] in made["coordinator/hsl_coordinator_database_url"]
    assert len(set(made.values())) == 4
    (tmp_path / "secrets/coordinator/hsl_coordinator_admin_token").unlink()
    again = make()
    assert again["coordinator/hsl_coordinator_admin_token"] != made["coordinator/hsl_coordinator_admin_token"]


def test_a_site_without_a_code_says_what_to_fill_in(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HSL_NODE_WORKDIR": str(tmp_path)}
    done = subprocess.run([DEPLOY / "node/start.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "HSL_ENROLMENT_CODE" in done.stderr
