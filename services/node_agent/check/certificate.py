"""Is it the coordinator that answers: does its certificate come from whom this machine trusts, and for how long?"""

import ssl
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

from node_agent.check.finding import Concern, Finding, Outcome, Place
from node_agent.check.port import CONNECT_S
from node_agent.proxy import ProxyRefusedError, connected

SOON = timedelta(days=14)  # enough for the alliance to renew it before every site stands still
INSPECTION = "exempt from TLS inspection:"
# OpenSSL's X509_V_ERR_…: what is wrong with the chain. https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_NOT_YET, _EXPIRED, _WRONG_NAME = 9, 10, 62


@dataclass(frozen=True)
class _Shown:
    """What a server shows, unverified: only to tell the admin whose it is."""

    issuer: str
    begins: datetime
    ends: datetime


def check_certificate(place: Place, context: ssl.SSLContext, now: datetime) -> Finding:
    try:
        shown = _handshake(place, context)
    except ssl.SSLCertVerificationError as error:
        return _untrusted(place, error, now)
    except ssl.SSLError:
        sentence = f"{place.name} does not speak TLS as expected; something else listens there, or sits in between."
        return place.found(Concern.CERTIFICATE, Outcome.FAILED, sentence, INSPECTION)
    except (OSError, ProxyRefusedError):
        sentence = f"{place.name} took the connection and broke it off during TLS, as a firewall does."
        return place.found(Concern.CERTIFICATE, Outcome.FAILED, sentence, INSPECTION)
    left = shown.ends - now
    sentence = f"Issued by {shown.issuer}, which this machine trusts; valid until {shown.ends:%Y-%m-%d}."
    outcome = Outcome.OK if left > SOON else Outcome.WARNING
    if outcome is Outcome.WARNING:
        sentence += f" That is in {left.days} days: the alliance's admin must renew it."
    return place.found(Concern.CERTIFICATE, outcome, sentence, days_left=left / timedelta(days=1))


def _untrusted(place: Place, error: ssl.SSLCertVerificationError, now: datetime) -> Finding:
    shown = _shown_unverified(place)
    by = f"issued by {shown.issuer}" if shown else "of an unknown issuer"
    if error.verify_code == _WRONG_NAME:
        sentence = f"The certificate ({by}) is for another name than {place.host}: is the address right?"
    elif error.verify_code == _EXPIRED:
        until = f"{shown.ends:%Y-%m-%d}" if shown else "the past"
        sentence = f"The certificate ({by}) ended {until}, and this machine's clock says {now:%Y-%m-%d %H:%M} UTC."
    elif error.verify_code == _NOT_YET:
        begins = f"{shown.begins:%Y-%m-%d %H:%M} UTC" if shown else "in the future"
        sentence = f"The certificate ({by}) begins {begins}; this machine's clock says {now:%Y-%m-%d %H:%M} UTC."
    else:
        sentence = (
            f"This machine does not trust the certificate, {by}: TLS inspection on the way, or the alliance's own "
            "authority is missing here."
        )
    return place.found(Concern.CERTIFICATE, Outcome.FAILED, sentence, INSPECTION)


def _handshake(place: Place, context: ssl.SSLContext) -> _Shown:
    sock = connected(place.host, place.port, place.proxy, CONNECT_S)
    with closing(sock), context.wrap_socket(sock, server_hostname=place.host) as secured:
        raw = secured.getpeercert(binary_form=True)
    if raw is None:
        raise ssl.SSLError("no certificate")
    certificate = x509.load_der_x509_certificate(raw)
    return _Shown(_who(certificate), certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def _shown_unverified(place: Place) -> _Shown | None:
    """Nothing is sent on this connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return _handshake(place, context)
    except (OSError, ProxyRefusedError, ValueError):
        return None


def _who(certificate: x509.Certificate) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for found in certificate.issuer.get_attributes_for_oid(kind):
            return str(found.value)[:80]
    return "an issuer without a name"
