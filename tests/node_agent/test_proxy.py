"""The way out of the house: which proxy for which host, and enrolling, polling and transferring through a real one."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.messages import DesiredState, EnrolReply
from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.transport import DESIRED, ENROL
from node_agent.coordinator_client import CoordinatorError
from node_agent.enrol import enrol
from node_agent.exchange.base import ExchangeError
from node_agent.mailbox import Mailbox
from node_agent.main import paced_exchange, run_daemon
from node_agent.proxy import Proxy, ProxyAddressError, ProxyRefusedError, connected, parse_proxy, proxy_for
from node_agent.settings import NodeSettings
from tests.embedded_hub.helpers import Login
from tests.node_agent.alliance import until
from tests.node_agent.exchange.helpers import Watch, make_content
from tests.node_agent.exchange.proxy import ConnectProxy
from tests.node_agent.tls import Authority, TlsService

HUB, COORDINATOR = "hub.example", "coordinator.example"  # names that only the proxy can resolve
USER = "ward-7:p@ss/word"


def settings(tmp_path: Path, proxy: str | None = None) -> NodeSettings:
    return NodeSettings(workdir=tmp_path / "node", proxy_url=proxy)


@pytest.mark.parametrize(
    ("given", "environment", "host", "expected"),
    [
        (None, {}, "hub.example", None),
        (None, {"HTTPS_PROXY": "http://p:3128"}, "hub.example", "p:3128"),
        (None, {"https_proxy": "p:3128"}, "hub.example", "p:3128"),
        (None, {"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://p:3128"}, "hub.example", "p:3128"),
        (None, {"ALL_PROXY": "http://a:1"}, "hub.example", "a:1"),
        (None, {"HTTP_PROXY": "http://p:3128"}, "hub.example", None),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "other.example,.example"}, "hub.example", None),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "hub.example:2022"}, "hub.example", None),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "hub.example:22"}, "hub.example", "p:3128"),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "b.example"}, "hub.example", "p:3128"),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "127.0.0.1,10.0.0.0/8"}, "10.20.0.5", None),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "10.0.0.0/8"}, "192.0.2.5", "p:3128"),
        (None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, "hub.example", None),
        (None, {"HTTPS_PROXY": "http://p:3128"}, "127.0.0.1", None),
        (None, {"HTTPS_PROXY": "http://p:3128"}, "localhost", None),
        (None, {"HTTPS_PROXY": "http://p:3128"}, "::1", None),
        ("http://own:8080", {"HTTPS_PROXY": "http://p:3128"}, "hub.example", "own:8080"),
        ("http://own:8080", {"NO_PROXY": "hub.example"}, "hub.example", None),
        ("http://own:8080", {}, "127.0.0.1", None),
        ("", {"HTTPS_PROXY": "http://p:3128"}, "hub.example", "p:3128"),
    ],
)  # fmt: skip
def test_which_proxy(
    tmp_path: Path, given: str | None, environment: dict[str, str], host: str, expected: str | None
) -> None:
    found = proxy_for(settings(tmp_path, given), host, 2022, environment)
    assert (found.place if found else None) == expected


def test_credentials_are_read_and_never_shown() -> None:
    found = parse_proxy("http://ward-7:p%40ss%2Fword@proxy.example:3128", "HSL_NODE_PROXY_URL")
    assert found == Proxy("proxy.example", 3128, "ward-7", "p@ss/word")
    assert found.credentials == ("ward-7", "p@ss/word")
    assert "word" not in repr(found)
    assert "word" not in found.place


@pytest.mark.parametrize(
    "url", ["https://user:geheim@p:1", "socks5://geheim", "http://", "http://p:geheim", "http://p/geheim"]
)
def test_an_address_that_is_none_is_refused_without_repeating_it(tmp_path: Path, url: str) -> None:
    with pytest.raises(ProxyAddressError) as caught:
        proxy_for(settings(tmp_path, url), HUB, 22, {})
    assert "HSL_NODE_PROXY_URL" in caught.value.sentence()
    assert "geheim" not in caught.value.sentence()


def test_the_settings_do_not_show_the_password(tmp_path: Path) -> None:
    made = settings(tmp_path, "http://user:geheim@proxy:1")
    assert "geheim" not in repr(made)
    assert "geheim" not in made.model_dump_json()


# --- through a real proxy ---------------------------------------------------------------------------------------------


class Cardboard(TlsService):
    """A coordinator that enrols everyone and wants nothing of them."""

    def __init__(self, authority: Authority, login: Login, hub_key: str) -> None:
        super().__init__(authority, COORDINATOR)
        self._login, self._hub_key = login, hub_key

    def answer(self, method: str, path: str) -> Any:
        hub = {"host": HUB, "port": 2022, "username": self._login.node_id, "host_key": self._hub_key}
        if path == ENROL:
            return EnrolReply.model_validate(
                {"node_id": self._login.node_id, "alliance": "Bones", "token": "hsln_token-of-it", "hub": hub}
            )
        return DesiredState(version="1") if path == DESIRED else None


@contextmanager
def scene(
    new_login: Callable[[], Login], hub: Any, authority: Authority, credentials: str | None, **refusing: Any
) -> Iterator[tuple[ConnectProxy, Login]]:
    login = new_login()
    with Cardboard(authority, login, hub.info["host_key"]) as coordinator:
        places = {f"{COORDINATOR}:443": coordinator.port, f"{HUB}:2022": hub.port}
        with ConnectProxy(places, credentials, **refusing) as proxy:
            yield proxy, login


@pytest.mark.parametrize("credentials", [None, USER])
def test_enrolling_polling_and_a_transfer_through_the_proxy(
    tmp_path: Path, new_login: Callable[[], Login], hub: Any, authority: Authority, credentials: str | None
) -> None:
    with scene(new_login, hub, authority, credentials) as (proxy, login):
        user = "" if credentials is None else "ward-7:p%40ss%2Fword@"
        own = settings(tmp_path, f"http://{user}127.0.0.1:{proxy.port}")
        node = enrol(own, f"https://{COORDINATOR}", "a-code-of-the-alliance")
        assert node.hub.host == HUB
        mailbox = Mailbox()
        agent = threading.Thread(target=run_daemon, args=(own,), kwargs={"mailbox": mailbox})
        agent.start()
        try:
            assert until(mailbox.changed, lambda: mailbox.desired, 60.0)
        finally:
            mailbox.stop()
            agent.join(60)
        content = make_content(tmp_path, 300_000)
        exchange = paced_exchange(own, SystemClock())(node.hub, login.key, login.node_id)
        exchange.put_tensors(content.path, login.node_id, content.sha256, Watch())
        exchange.get_tensors(login.node_id, content.sha256, len(content), tmp_path / "got", Watch())
        exchange.close()
        assert (tmp_path / "got").read_bytes() == content.data
        assert set(proxy.seen) == {(f"{COORDINATOR}:443", 200), (f"{HUB}:2022", 200)}


@pytest.mark.parametrize(
    ("credentials", "refusing", "word"),
    [
        (USER, {}, "user name and a password"),
        (None, {"status": 403}, "does not allow"),
        (None, {"status": 503}, "could not get through"),
    ],
)
def test_a_proxy_that_refuses_is_named_by_both_doors(
    tmp_path: Path,
    new_login: Callable[[], Login],
    hub: Any,
    authority: Authority,
    credentials: str | None,
    refusing: dict[str, Any],
    word: str,
) -> None:
    with scene(new_login, hub, authority, credentials, **refusing) as (proxy, login):
        own = settings(tmp_path, f"http://ward-7:wrong@127.0.0.1:{proxy.port}")
        with pytest.raises(CoordinatorError) as refused:
            enrol(own, f"https://{COORDINATOR}", "a-code-of-the-alliance")
        address = hub.address(login, host=HUB, port=2022)
        exchange = paced_exchange(own, SystemClock())(address, login.key, login.node_id)
        with pytest.raises(ExchangeError) as stopped:
            exchange.list_own()
    for error in (refused.value, stopped.value):
        assert word in error.sentence()
        assert error.kind is FailureKind.CONNECTION  # tried again by itself
        assert "wrong" not in error.sentence()


def test_what_is_no_proxy_is_said(tmp_path: Path) -> None:
    with ConnectProxy({}, word=b"SSH-2.0-not-a-proxy\r\n\r\n") as stranger, pytest.raises(ProxyRefusedError) as caught:
        connected(HUB, 22, Proxy("127.0.0.1", stranger.port), 10.0)
    assert "does not answer like one" in caught.value.sentence()


def test_what_the_hub_says_at_once_is_not_lost_in_the_answer(tmp_path: Path) -> None:
    """A hub greets first; its words may arrive in the same packet as the proxy's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            node, _ = listener.accept()
            with node:
                node.recv(4096)
                node.sendall(b"HTTP/1.1 200 Connection established\r\n\r\nSSH-2.0-hub\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with connected(HUB, 22, Proxy("127.0.0.1", listener.getsockname()[1]), 10.0) as sock:
            assert sock.recv(64).startswith(b"SSH-2.0-hub")
        thread.join()
