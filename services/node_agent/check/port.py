"""Can this machine connect, directly or through the site's proxy?"""

import errno

from hsl_model.protocol.clock import Clock
from node_agent.check.finding import Concern, Finding, Outcome, Place
from node_agent.proxy import ProxyRefusedError, connected

# A firewall that drops packets would hold a connect for minutes.
CONNECT_S = 10.0


def check_proxy(place: Place) -> Finding:
    """A tunnel to `place`, where there is a proxy on the way. The cause is then the proxy, or what it says."""
    proxy = place.proxy
    if proxy is None:
        return place.found(Concern.PROXY, Outcome.OK, "None on the way (HSL_NODE_PROXY_URL, HTTPS_PROXY, NO_PROXY).")
    itself = Place(part=place.part, host=proxy.host, port=proxy.port, protocol="HTTP CONNECT")
    try:
        connected(proxy.host, proxy.port, None, CONNECT_S).close()
    except OSError as error:
        sentence = f"The proxy {proxy.place} is not reached: {_cause(error)}."
        return itself.found(Concern.PROXY, Outcome.FAILED, sentence)
    try:
        connected(place.host, place.port, proxy, CONNECT_S).close()
    except ProxyRefusedError as error:
        sentence = f"{error.sentence()} The proxy is {proxy.place}."
        return place.found(Concern.PROXY, Outcome.FAILED, sentence)
    except OSError as error:
        sentence = f"The proxy {proxy.place} takes connections and then fails: {_cause(error)}."
        return itself.found(Concern.PROXY, Outcome.FAILED, sentence)
    return place.found(Concern.PROXY, Outcome.OK, f"{proxy.place} makes a tunnel to {place.name}.")


def check_port(place: Place, clock: Clock) -> Finding:
    began_s = clock.monotonic()
    try:
        connected(place.host, place.port, place.proxy, CONNECT_S).close()
    except ProxyRefusedError as error:
        return place.found(Concern.PORT, Outcome.FAILED, error.sentence())
    except OSError as error:
        return place.found(Concern.PORT, Outcome.FAILED, f"{place.name} is not reached: {_cause(error)}.")
    took_s = clock.monotonic() - began_s
    return place.found(Concern.PORT, Outcome.OK, f"{place.name} takes connections.", connect_s=took_s)


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_S:.0f} s, as when a firewall drops the packets"
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused; nothing listens there, or a firewall rejects it"
    if isinstance(error, ConnectionError):
        return "the connection is broken off, as when a firewall does not like it"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return "this machine has no route there"
    return f"the operating system says {errno.errorcode.get(error.errno or 0, 'an unknown error')}"
