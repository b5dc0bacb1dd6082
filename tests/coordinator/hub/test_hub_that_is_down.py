"""A real hub that is down at any step of an account: enrolment, rotation and revocation wait, and nothing is corrupt.

The coordinator is whole, the hub a real process of its own; it is killed before the call that a test names, whichever
comes first, and started again later.
"""

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from coordinator.hub.admin import HubAdmin
from coordinator.hub.embedded import EmbeddedHubAdmin
from coordinator.schedule import HUB_PAUSE_S
from hsl_model.protocol.clock import ManualClock
from hsl_model.protocol.messages import DesiredRequest
from hsl_model.protocol.transport import API, DESIRED, ENROL, ROTATE
from tests.coordinator.conftest import open_alliance
from tests.coordinator.helpers import Alliance, Keys
from tests.coordinator.hub.conftest import HUBS
from tests.coordinator.nodes.test_rotation import New
from tests.embedded_hub.helpers import HubProcess, Login, make_login
from tests.sftpgo.helpers import SftpgoProcess

_numbers = itertools.count(1)
STEPS = ("ensure_node", "set_key", "address")


class FallingHub:
    """The real admin of a real hub, which dies just before one call."""

    def __init__(self, process: HubProcess, admin: HubAdmin) -> None:
        self._process, self._admin = process, admin
        self.dies_before: str | None = None

    def __getattr__(self, name: str) -> object:
        if name == self.dies_before:
            self.dies_before = None
            self._process.stop(signal.SIGKILL)
        return getattr(self._admin, name)


@pytest.fixture(scope="module", params=HUBS)
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    kind = {"embedded hub": HubProcess, "sftpgo": SftpgoProcess}[request.param]
    with kind(tmp_path_factory.mktemp("falling")) as running:
        yield running


@pytest.fixture
def hub(process: HubProcess) -> Iterator[FallingHub]:
    admin = (
        process.open_admin()
        if isinstance(process, SftpgoProcess)
        else EmbeddedHubAdmin(process.admin_url, process.token)
    )
    yield FallingHub(process, admin)
    admin.close()
    if process.process is None:
        process.start()


@pytest.fixture
def alliance(sqlite_url: str, hub: FallingHub) -> Iterator[Alliance]:
    with open_alliance(sqlite_url, ManualClock(), hub) as alliance:  # type: ignore[arg-type]
        yield alliance


def gets_in(process: HubProcess, login: Login) -> bool:
    try:
        process.connect(login).close()
    except paramiko.AuthenticationException:
        return False
    return True


def told(alliance: Alliance, node_id: str) -> list[str]:
    return [kind for kind in alliance.event_kinds(node_id=node_id) if kind.startswith("hub.")]


@pytest.mark.parametrize("step", STEPS)
def test_an_enrolment_waits_for_the_hub_and_uses_nothing_up(
    process: HubProcess, hub: FallingHub, alliance: Alliance, step: str, tmp_path: Path
) -> None:
    node_id = f"site-{next(_numbers)}"
    login = make_login(node_id, tmp_path)
    wish = Keys().request(alliance.add(node_id)).model_copy(update={"ssh_public_key": login.public_key})
    hub.dies_before = step
    for _ in range(2):
        reply = alliance.stranger.post(ENROL, wish)
        assert (reply.status_code, reply.json()["code"]) == (503, "hub_unreachable")
    assert alliance.admin.get(f"{API}/nodes/{node_id}").json()["status"] == "created"
    process.start()
    assert alliance.stranger.post(ENROL, wish).status_code == 200
    assert gets_in(process, login)
    assert told(alliance, node_id) == ["hub.folder_made", "hub.user_made", "hub.key_set"], "each step once"


@pytest.mark.parametrize("step", [pytest.param("ensure_node", marks=pytest.mark.long), "set_key"])
def test_a_rotation_and_a_revocation_are_made_up_for(
    process: HubProcess, hub: FallingHub, alliance: Alliance, step: str, tmp_path: Path
) -> None:
    node_id = f"site-{next(_numbers)}"
    node = alliance.enrol(node_id)
    login = make_login(node_id, tmp_path)
    new = New(node_id, node.signing_key, ssh_line=login.public_key)
    hub.dies_before = step
    assert node.post(ROTATE, new.request()).status_code == 204
    assert node.post(DESIRED, DesiredRequest(wait_s=0)).status_code == 200
    alliance.beat()
    process.start()
    assert not gets_in(process, login)
    alliance.beat(HUB_PAUSE_S)
    assert gets_in(process, login)

    hub.dies_before = "cut"
    assert alliance.admin.post(f"{API}/nodes/{node_id}/revoke").status_code == 200
    alliance.beat(HUB_PAUSE_S)
    process.start()
    assert gets_in(process, login), "the hub missed it"
    alliance.beat(HUB_PAUSE_S)
    assert not gets_in(process, login)
    assert told(alliance, node_id) == ["hub.folder_made", "hub.user_made", "hub.key_set", "hub.key_set", "hub.cut"]
