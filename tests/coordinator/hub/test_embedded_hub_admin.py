"""What the coordinator says when the embedded hub is down, is another one, or is no hub at all."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from coordinator.hub.admin import HubAdmin, HubAnswerError, HubDownError, HubTokenError
from coordinator.hub.embedded import EmbeddedHubAdmin
from tests.embedded_hub.helpers import HubProcess, HubThread, free_port, make_login

NewAdmin = Callable[[str, str], EmbeddedHubAdmin]


@pytest.fixture
def new_admin() -> Iterator[NewAdmin]:
    made: list[EmbeddedHubAdmin] = []

    def new(url: str, token: str) -> EmbeddedHubAdmin:
        made.append(EmbeddedHubAdmin(url, token))
        return made[-1]

    yield new
    for admin in made:
        admin.close()


def calls(admin: HubAdmin, public_key: str) -> list[Callable[[], object]]:
    return [
        lambda: admin.ensure_node("site-1"),
        lambda: admin.set_key("site-1", public_key),
        lambda: admin.cut("site-1"),
        lambda: admin.list("site-1"),
        lambda: admin.release("site-1", ("x",)),
        lambda: admin.address("site-1"),
    ]


def test_a_hub_that_is_down_is_said_so(new_admin: NewAdmin, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    admin = new_admin(url, "x" * 30)
    for call in calls(admin, make_login("site-1", tmp_path).public_key):
        with pytest.raises(HubDownError) as caught:
            call()
        assert url in caught.value.sentence()
        assert "Is the hub running" in caught.value.sentence()
    assert not admin.healthy()


def test_another_token_is_said_so(new_admin: NewAdmin, hub_process: HubProcess, tmp_path: Path) -> None:
    admin = new_admin(hub_process.admin_url, "x" * 30)
    for call in calls(admin, make_login("site-1", tmp_path).public_key):
        with pytest.raises(HubTokenError, match="HSL_HUB_ADMIN_TOKEN"):
            call()
    assert not admin.healthy()


def test_a_hub_that_comes_back_is_used_again(new_admin: NewAdmin, tmp_path: Path) -> None:
    port = free_port()
    with HubThread(tmp_path / "hub", admin_port=port) as hub:
        admin = new_admin(hub.admin_url, hub.token)
        admin.ensure_node("site-1")
    assert not admin.healthy()
    with HubThread(tmp_path / "hub", admin_port=port, token=hub.token):
        assert admin.healthy()
        assert admin.list("site-1") == ()


def test_a_proxy_for_the_outside_world_is_not_asked(
    new_admin: NewAdmin, hub_process: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert new_admin(hub_process.admin_url, hub_process.token).healthy()


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (200, b"{}"), (404, b"nginx"), (500, b"")])
def test_something_else_at_the_address_is_said_so(new_admin: NewAdmin, status: int, body: bytes) -> None:
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        admin = new_admin(f"http://127.0.0.1:{server.server_port}", "x" * 30)
        for call in (lambda: admin.list("site-1"), lambda: admin.address("site-1")):
            with pytest.raises(HubAnswerError, match="not the hub"):
                call()
        server.shutdown()
        thread.join()
