"""A real SFTPGo with settings that no alliance has: the supervisor starts it through a script that adds them."""

import os
from pathlib import Path

import httpx

from sftpgo_hub.program import find_program
from tests.embedded_hub.helpers import HTTP, wait_until
from tests.sftpgo.helpers import SftpgoProcess


class TunedSftpgo(SftpgoProcess):
    """`root`: made already where parts of it lie on another disk. `settings`: SFTPGo's own, by name."""

    def __init__(self, root: Path, **settings: str) -> None:
        super().__init__(root)
        self._own = settings

    def environment(self) -> dict[str, str]:
        wrapper = self.root / "sftpgo.sh"
        lines = [f"export SFTPGO_{name}={value}" for name, value in self._own.items()]
        wrapper.write_text("\n".join(["#!/bin/sh", *lines, f'exec {find_program()} "$@"', ""]))
        wrapper.chmod(0o755)
        return {**super().environment(), "HSL_SFTPGO": str(wrapper), "PATH": os.environ["PATH"]}

    def wait_until_it_serves(self) -> None:
        """After it was killed: its supervisor brings it back."""
        wait_until(self._is_healthy, "SFTPGo to serve again")

    def _is_healthy(self) -> bool:
        try:
            return all(HTTP.get(f"http://127.0.0.1:{port}/healthz").is_success for port in self._ports())
        except httpx.TransportError:
            return False

    def _ports(self) -> tuple[int, int]:
        return self.metrics_port, self.rest_port

    def change(self, node_id: str, **settings: object) -> None:
        """A node's account, as its admin changes it."""
        self.rest("PUT", f"/users/{node_id}", json={**self.user(node_id), **settings}).raise_for_status()
