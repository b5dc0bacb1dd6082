"""Ports of the demo, chosen once: agents keep the hub's address for life."""

import random
import socket
from contextlib import ExitStack

from hsl_cli.demo.settings import Ports
from hsl_cli.errors import BadInputError

# Below the range from which the kernel takes ports for outgoing connections: a port from there could be lent to some
# connection while its service is being restarted.
CANDIDATES = range(20_000, 32_000)


def choose_ports(coordinator: int | None) -> Ports:
    """Three ports that are free now; the coordinator's may be wished for."""
    if coordinator is not None:
        check_free(coordinator)
    first, hub, hub_admin, hub_rest, hub_metrics = free_ports(5, without=coordinator)
    return Ports(
        coordinator=coordinator or first, hub=hub, hub_admin=hub_admin, hub_rest=hub_rest, hub_metrics=hub_metrics
    )


def free_ports(num_ports: int, without: int | None = None) -> list[int]:
    """Different ones that stay free until a service takes them or a stranger asks for exactly them."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(CANDIDATES, 500):
            if port != without and (one := _bound(port)) is not None:
                held.enter_context(one)
                found.append(port)
            if len(found) == num_ports:
                return found
    raise BadInputError(reason=f"No free ports on 127.0.0.1 between {CANDIDATES.start} and {CANDIDATES.stop}.")


def check_free(port: int) -> None:
    taken = _bound(port)
    if taken is None:
        raise BadInputError(
            reason=f"Port {port} on 127.0.0.1 is taken by another program: end it, or begin anew with other ports "
            "(--fresh)."
        )
    taken.close()


def _bound(port: int) -> socket.socket | None:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the services do: old connections do not matter
        one.bind(("127.0.0.1", port))
    except OSError:
        one.close()
        return None
    return one
