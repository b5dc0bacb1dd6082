"""Does the name mean something here?"""

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable

from node_agent.check.finding import Concern, Finding, Outcome, Place

# A resolver tries each of its servers several times; one that has not answered by now will not in the agent either.
LOOKUP_S = 20.0

Resolve = Callable[[str, int], list[str]]


def check_name(place: Place, resolve: Resolve | None = None) -> Finding:
    if _is_address(place.host):
        return place.found(Concern.NAME, Outcome.OK, f"{place.host} is an address; nothing to look up.")
    if place.proxy is not None:
        sentence = f"{place.host} is looked up by the proxy {place.proxy.place}, not here."
        return place.found(Concern.NAME, Outcome.OK, sentence)
    try:
        addresses = (resolve or _looked_up)(place.host, place.port)
    except TimeoutError:
        sentence = f"No name server answered within {LOOKUP_S:.0f} s: is DNS set up on this machine, and not blocked?"
        return place.found(Concern.NAME, Outcome.FAILED, sentence)
    except OSError:
        sentence = f"The name {place.host} is not known to this machine's name servers: is it spelt right?"
        return place.found(Concern.NAME, Outcome.FAILED, sentence)
    return place.found(Concern.NAME, Outcome.OK, f"{place.host} is {', '.join(addresses)}.")


def _looked_up(host: str, port: int) -> list[str]:
    """In a thread that may be left behind: the system's lookup knows no time limit."""
    answers: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            answers.put(error)
        else:
            answers.put(sorted({str(entry[4][0]) for entry in found}))

    threading.Thread(target=look, name="lookup", daemon=True).start()
    try:
        answer = answers.get(timeout=LOOKUP_S)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
