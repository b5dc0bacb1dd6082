"""A real SFTPGo under its supervisor, with throw-away keys on loopback, and whoever may talk to it."""

import os
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from coordinator.hub.sftpgo import SftpgoHubAdmin
from hsl_cli.demo.ports import free_ports
from hsl_model.protocol.paths import COORDINATOR_USER
from sftpgo_hub.errors import ProgramMissingError
from sftpgo_hub.program import find_program
from tests.embedded_hub.helpers import HTTP, HubProcess, Login, make_login


def need_sftpgo() -> None:
    """Skip where SFTPGo was not built; fail where nothing may be skipped."""
    try:
        find_program()
    except ProgramMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(error.sentence())
        pytest.skip(error.sentence())


class SftpgoProcess(HubProcess):
    """`python -m sftpgo_hub`. Ports stay the same over restarts."""

    module = "sftpgo_hub"
    rest_port: int
    metrics_port: int

    def __init__(self, root: Path, **settings: str) -> None:
        super().__init__(root)
        self._more = settings

    def __enter__(self) -> Self:
        need_sftpgo()
        self.rest_port, self.metrics_port = free_ports(2)
        return super().__enter__()

    def settings(self) -> dict[str, str]:
        ports = {"REST_PORT": str(self.rest_port), "METRICS_PORT": str(self.metrics_port)}
        return {**super().settings(), **ports, **self._more}

    def environment(self) -> dict[str, str]:
        kept = {key: os.environ[key] for key in ("HSL_SFTPGO", "HSL_CACHE") if key in os.environ}
        return {**super().environment(), **kept}

    def open_admin(self) -> SftpgoHubAdmin:
        return SftpgoHubAdmin(self.admin_url, self.token)

    def add(self, node_id: str) -> Login:
        login = make_login(node_id, self.root)
        admin = self.open_admin()
        admin.ensure_node(node_id)
        admin.set_key(node_id, login.public_key)
        admin.close()
        return login

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    @property
    def server_pid(self) -> int:
        """Of SFTPGo itself, the supervisor's one child."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def rest(self, method: str, path: str, **content: Any) -> httpx.Response:
        """As the coordinator's admin, with a fresh token."""
        reply = HTTP.get(f"{self.rest_url}/api/v2/token", auth=(COORDINATOR_USER, self.token))
        headers = {"Authorization": f"Bearer {reply.raise_for_status().json()['access_token']}"}
        return HTTP.request(method, f"{self.rest_url}/api/v2{path}", headers=headers, **content)

    def user(self, username: str) -> dict[str, Any]:
        found: dict[str, Any] = self.rest("GET", f"/users/{username}").raise_for_status().json()
        return found
