"""Is it the hub that answers: does it show the key that came with the enrolment?"""

import base64
import hashlib

from paramiko.ssh_exception import IncompatiblePeer, SSHException

from node_agent.check.finding import Concern, Finding, Outcome, Place
from node_agent.exchange.link import HANDSHAKE_S, host_key_of
from node_agent.proxy import ProxyRefusedError

INSPECTION = "exempt from SSH inspection:"


def check_host_key(place: Place, pinned: str | None) -> Finding:
    """`pinned`: the line of the enrolment; None before it, and then the key is only shown."""
    try:
        shown = fingerprint(_shown(place, pinned))
    except (SSHException, OSError, EOFError, ProxyRefusedError):
        sentence = (
            f"{place.name} takes the connection, but does not speak SSH within {HANDSHAKE_S:.0f} s: a firewall that "
            "looks into it, another service, or the hub has banned this address for a while."
        )
        return place.found(Concern.HOST_KEY, Outcome.FAILED, sentence, INSPECTION)
    if pinned is None:
        sentence = f"The hub shows {shown}; after enrolment it is compared. The alliance's admin can confirm it."
        return place.found(Concern.HOST_KEY, Outcome.OK, sentence)
    expected = fingerprint(pinned)
    if shown == expected:
        return place.found(Concern.HOST_KEY, Outcome.OK, f"The hub shows the key of the enrolment, {shown}.")
    sentence = (
        f"The hub shows another host key ({shown}) than the one of the enrolment ({expected}); nothing is sent to it. "
        "Ask the alliance's admin: if it was changed, enrol again; if not, something sits in between."
    )
    return place.found(Concern.HOST_KEY, Outcome.FAILED, sentence, INSPECTION)


def _shown(place: Place, pinned: str | None) -> str:
    """A hub may have several keys: that of the pinned kind, or where there is none, whichever it has."""
    if pinned is not None:
        try:
            return host_key_of(place.host, place.port, place.proxy, pinned.split()[0])
        except IncompatiblePeer:
            return host_key_of(place.host, place.port, place.proxy)
    return host_key_of(place.host, place.port, place.proxy)


def fingerprint(line: str) -> str:
    """As `ssh-keygen -l` prints it, of an OpenSSH public key line."""
    raw = base64.b64decode(line.split()[1])
    return f"SHA256:{base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip('=')}"
