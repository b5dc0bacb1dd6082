"""toxiproxy, Shopify's proxy for lines that are slow, far, stalled or reset: the program, and its API over HTTP."""

import os
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from sftpgo_hub.program import cache
from tests.embedded_hub.helpers import HTTP, free_port, wait_until

PROGRAM = "toxiproxy-2.12.0/toxiproxy"
BOTH = ("upstream", "downstream")


def find_toxiproxy() -> Path:
    """Skip where it was not built; fail where nothing may be skipped."""
    program = cache(os.environ) / PROGRAM
    if not program.exists():
        reason = f"toxiproxy is not at {program}: run `make toxiproxy`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


class ToxicLine:
    """One line through the proxy; `port` is where clients connect."""

    def __init__(self, url: str, name: str, server_port: int) -> None:
        self._url = f"{url}/proxies/{name}"
        settings = {"name": name, "listen": "127.0.0.1:0", "upstream": f"127.0.0.1:{server_port}", "enabled": True}
        made = HTTP.post(f"{url}/proxies", json=settings).raise_for_status().json()
        self.port = int(made["listen"].rsplit(":", 1)[1])

    def add(self, kind: str, streams: tuple[str, ...] = BOTH, **attributes: int) -> None:
        """On open connections as well as on new ones."""
        for stream in streams:
            body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
            HTTP.post(f"{self._url}/toxics", json=body).raise_for_status()

    def heal(self) -> None:
        for toxic in HTTP.get(f"{self._url}/toxics").raise_for_status().json():
            HTTP.delete(f"{self._url}/toxics/{toxic['name']}").raise_for_status()
        self.switch(on=True)

    def switch(self, *, on: bool) -> None:
        """Off: open connections end, new ones are refused."""
        settings: dict[str, Any] = {"enabled": on, "listen": f"127.0.0.1:{self.port}"}
        HTTP.post(self._url, json=settings).raise_for_status()


class Toxiproxy(AbstractContextManager["Toxiproxy"]):
    def __init__(self, folder: Path) -> None:
        self._log = folder / "toxiproxy.log"
        self._num_lines = 0

    def __enter__(self) -> Self:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = [find_toxiproxy(), "-host", "127.0.0.1", "-port", str(port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, "toxiproxy to answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)

    def line(self, server_port: int) -> ToxicLine:
        self._num_lines += 1
        return ToxicLine(self._url, f"line-{self._num_lines}", server_port)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            return HTTP.get(f"{self._url}/version").is_success
        except httpx.TransportError:
            return False
