"""Whom an agent believes to be the coordinator, and in which words it says that it does not.

Without a file: the public authorities (httpx's, or those of `SSL_CERT_FILE`). With `HSL_NODE_COORDINATOR_CA_FILE`: only
what stands in it, be it the alliance's own authority or the coordinator's very certificate (a pin). Plain HTTP stays on
loopback, where nobody listens in.
"""

import ssl
from ipaddress import ip_address
from pathlib import Path

import httpx

from node_agent.errors import AgentError

# OpenSSL's numbers (x509_vfy.h); its own words are English prose about certificates, these say what to do.
_REASONS = {
    9: "it is not valid yet: is this machine's clock right",
    10: "it has expired: the alliance must renew it, or is this machine's clock right",
    62: "it was issued for another name: is this the address the alliance gave you",
    64: "it was issued for another address: is this the address the alliance gave you",
}
_UNKNOWN = (
    "nobody trusted here has signed it: does HSL_NODE_COORDINATOR_CA_FILE (for an admin: HSL_CA_FILE) name the "
    "alliance's file, or does a proxy on the way open TLS"
)


class PlainHttpError(AgentError):
    code = "plain_http_refused"
    title = "The coordinator would be spoken to in the clear"
    template = (
        "{url} is plain HTTP, which anybody on the way can read and change: use the alliance's https:// address. "
        "Plain HTTP is for 127.0.0.1 alone."
    )


class CaFileError(AgentError):
    code = "ca_file_unreadable"
    title = "The coordinator's certificate authority cannot be read"
    template = "{path} ({reason}) must be a PEM file with the certificate of the alliance's authority or coordinator."


def checked_tls(url: str, ca_file: Path | None) -> ssl.SSLContext:
    """What TLS with this coordinator demands. Raises `PlainHttpError`, `CaFileError`."""
    address = httpx.URL(url)
    if address.scheme == "http" and not is_loopback(address.host):
        raise PlainHttpError(url=url)
    if ca_file is None:
        return httpx.create_ssl_context()
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=_pem(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a leaf in the file is a pin: it needs no issuer
    return context


def _pem(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except OSError as error:  # ssl.SSLError is one too
        raise CaFileError(path=path, reason=error.strerror if error.filename else "no certificate in it") from error
    except ValueError as error:  # not text, or nothing in it
        raise CaFileError(path=path, reason="no certificate in it") from error
    return text


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def distrust(error: BaseException) -> str | None:
    """The sentence, when `error` came from a certificate that was not believed."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return f"The coordinator's certificate is not trusted: {_REASONS.get(cause.verify_code, _UNKNOWN)}?"
