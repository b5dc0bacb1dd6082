"""The way out of the house: direct, or through the site's HTTP proxy by CONNECT. The same rule for HTTP(S) and SFTP.

    loopback                          direct, always: a proxy has another loopback
    NO_PROXY names the host           direct
    HSL_NODE_PROXY_URL                that one
    HTTPS_PROXY, else ALL_PROXY       that one
    nothing                           direct

HTTP(S) leaves it to httpx. For SFTP the tunnel is the few lines below rather than a library: a request, an answer, and
not one byte read beyond it, for the hub's greeting follows at once on the same socket.
"""

import base64
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import httpx

from hsl_model.protocol.errors import HslError
from hsl_model.protocol.retry import FailureKind
from node_agent.settings import NodeSettings
from node_agent.tls import checked_tls, is_loopback

MAX_ANSWER_BYTES = 16_384  # a proxy that answers with a page instead of a tunnel must not fill our memory
_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3})")


@dataclass(frozen=True)
class Proxy:
    host: str
    port: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def place(self) -> str:
        """Where it is, without the credentials."""
        return f"{self.host}:{self.port}"

    @property
    def credentials(self) -> tuple[str, str] | None:
        return None if self.username is None else (self.username, self.password or "")

    def for_httpx(self) -> httpx.Proxy:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return httpx.Proxy(f"http://{host}:{self.port}", auth=self.credentials)


class ProxyAddressError(HslError):
    """The sentence names no value: it may hold a password."""

    code = "proxy_address_invalid"
    http_status = 422
    title = "The proxy's address cannot be used"
    kind = FailureKind.REJECTED
    template = "{source}: expected http://proxy.example:3128, or http://user:password@proxy.example:3128."


class ProxyRefusedError(HslError):
    """The proxy answered, and made no tunnel. Names no host of the site: it may leave the house with a failure."""

    code = "proxy_refused"
    http_status = 502
    title = "The site's proxy refused"
    template = "{sentence}"
    kind = FailureKind.CONNECTION  # tried again: proxies are mended without anyone telling us

    def __init__(self, status: int | None) -> None:
        super().__init__(sentence=refusal_sentence(status))
        self.status = status


def refusal_sentence(status: int | None) -> str:
    if status == 407:
        return (
            "The site's proxy wants a user name and a password, or refuses those it got (407): "
            "set HSL_NODE_PROXY_URL to http://user:password@PROXY:PORT."
        )
    if status is None:
        return "What is set as the site's proxy does not answer like one: check HSL_NODE_PROXY_URL or HTTPS_PROXY."
    if status >= 500:
        return f"The site's proxy could not get through ({status}): is the address right, and may the proxy go there?"
    return f"The site's proxy does not allow this connection ({status}): ask for CONNECT to that host and port."


def parse_proxy(url: str, source: str) -> Proxy:
    """Raises `ProxyAddressError`. Only plain HTTP to the proxy itself: what runs through it is encrypted anyway."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ProxyAddressError(source=source) from error
    if parts.scheme != "http" or not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ProxyAddressError(source=source)
    username, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Proxy(host, port or 80, username, password)


def proxy_for(
    settings: NodeSettings, host: str, port: int, environment: Mapping[str, str] | None = None
) -> Proxy | None:
    """The proxy on the way to `host`, None for the direct way. Raises `ProxyAddressError`."""
    known = {name.lower(): value for name, value in (os.environ if environment is None else environment).items()}
    if is_loopback(host) or is_exempt(host.lower(), port, known.get("no_proxy", "")):
        return None
    if settings.proxy_url is not None:
        return parse_proxy(settings.proxy_url.get_secret_value(), "HSL_NODE_PROXY_URL")
    for name in ("https_proxy", "all_proxy"):
        if known.get(name):
            return parse_proxy(known[name], name.upper())
    return None


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether a NO_PROXY list names this host: itself, a domain above it or a network, with or without the port."""
    for given in no_proxy.lower().split(","):
        name = given.strip().removesuffix(f":{port}").removeprefix("*").removeprefix(".")
        if given.strip() == "*" or (name and (host == name or host.endswith(f".{name}") or _is_within(host, name))):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def connected(host: str, port: int, proxy: Proxy | None, timeout_s: float) -> socket.socket:
    """A TCP connection to `host`. Raises `OSError`, `ProxyRefusedError`. `timeout_s` bounds each step."""
    if proxy is None:
        return socket.create_connection((host, port), timeout=timeout_s)
    sock = socket.create_connection((proxy.host, proxy.port), timeout=timeout_s)
    try:
        _tunnel(sock, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", proxy.credentials)
    except BaseException:
        sock.close()
        raise
    return sock


def _tunnel(sock: socket.socket, target: str, credentials: tuple[str, str] | None) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if credentials is not None:
        word = base64.b64encode(":".join(credentials).encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {word}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        piece = sock.recv(1)  # byte by byte: what follows the answer is the hub's
        if not piece or len(answer) >= MAX_ANSWER_BYTES:
            raise ProxyRefusedError(_status_of(answer))
        answer += piece
    status = _status_of(answer)
    if status is None or not 200 <= status < 300:
        raise ProxyRefusedError(status)


def _status_of(answer: bytes) -> int | None:
    found = _STATUS.match(answer)
    return int(found[1]) if found else None


def status_in(error: httpx.ProxyError) -> int | None:
    """The proxy's answer, which httpx keeps in the text only."""
    found = re.match(r"^(\d{3})\b", str(error))
    return int(found[1]) if found else None


def way_out(settings: NodeSettings, url: str) -> httpx.BaseTransport:
    """How HTTP(S) to `url` leaves the house; `tls_context` says whom it trusts. Raises `ProxyAddressError`."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return httpx.HTTPTransport()  # never used: the client refuses the address and says so
    proxy = proxy_for(settings, address.host, address.port or 443)
    return httpx.HTTPTransport(verify=tls_context(settings, url), proxy=None if proxy is None else proxy.for_httpx())


def tls_context(settings: NodeSettings, url: str) -> ssl.SSLContext:
    """Whom the coordinator's certificate must come from. Raises `PlainHttpError`, `CaFileError`."""
    return checked_tls(url, settings.coordinator_ca_file)
