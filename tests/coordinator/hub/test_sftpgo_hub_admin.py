"""What is SFTPGo's own: quotas, addresses, its way of ignoring what it does not know, users that others made."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import paramiko
import pytest

from coordinator.hub.admin import (
    Drift,
    DriftKind,
    HubAdmin,
    HubAnswerError,
    HubDownError,
    HubRefusedError,
    HubTokenError,
    RosterAccount,
)
from coordinator.hub.sftpgo import SftpgoHubAdmin
from coordinator.hub.sftpgo_user import NodeLimits, account, differences
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange import open_exchange
from node_agent.exchange.base import ExchangeError
from tests.embedded_hub.helpers import HTTP, free_port, make_login
from tests.node_agent.exchange.helpers import Watch, make_content
from tests.sftpgo.helpers import SftpgoProcess

pytestmark = pytest.mark.sftpgo

NewAdmin = Callable[..., SftpgoHubAdmin]


@pytest.fixture
def new_admin() -> Iterator[NewAdmin]:
    made: list[SftpgoHubAdmin] = []

    def new(url: str, token: str, limits: NodeLimits | None = None) -> SftpgoHubAdmin:
        made.append(SftpgoHubAdmin(url, token, limits))
        return made[-1]

    yield new
    for admin in made:
        admin.close()


@pytest.fixture
def admin(new_admin: NewAdmin, sftpgo_process: SftpgoProcess) -> SftpgoHubAdmin:
    return new_admin(sftpgo_process.admin_url, sftpgo_process.token)


def calls(admin: HubAdmin) -> list[Callable[[], object]]:
    return [
        lambda: admin.ensure_node("site-1"),
        lambda: admin.set_key("site-1", "ssh-ed25519 AAAA"),
        lambda: admin.cut("site-1"),
        lambda: admin.list("site-1"),
        lambda: admin.release("site-1", (f"{'ab' * 32}.part",)),
        lambda: admin.address("site-1"),
    ]


def test_a_hub_that_is_down_is_said_so(new_admin: NewAdmin) -> None:
    admin = new_admin(f"http://127.0.0.1:{free_port()}", "x" * 30)
    for call in calls(admin):
        with pytest.raises(HubDownError, match="Is the hub running"):
            call()
    assert not admin.healthy()


def test_a_supervisor_whose_server_is_down_is_said_so(
    new_admin: NewAdmin, sftpgo_process: SftpgoProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = new_admin(sftpgo_process.admin_url, sftpgo_process.token)
    found = admin._rest.address().model_copy(update={"rest_port": free_port()})
    monkeypatch.setattr(admin._rest, "_address", None)
    monkeypatch.setattr(admin._rest, "address", lambda: found)
    for call in calls(admin)[:-1]:
        with pytest.raises(HubDownError):
            call()
    assert not admin.healthy()


def test_another_token_is_said_so(new_admin: NewAdmin, sftpgo_process: SftpgoProcess) -> None:
    admin = new_admin(sftpgo_process.admin_url, "x" * 30)
    for call in calls(admin):
        with pytest.raises(HubTokenError, match="HSL_HUB_ADMIN_TOKEN"):
            call()
    assert not admin.healthy()


def test_the_other_hub_at_the_address_is_said_so(new_admin: NewAdmin, sftpgo_process: SftpgoProcess) -> None:
    """SFTPGo's REST itself, where the supervisor should be."""
    admin = new_admin(sftpgo_process.rest_url, sftpgo_process.token)
    with pytest.raises(HubAnswerError, match="not the hub"):
        admin.list("site-1")


def test_tokens_are_renewed_after_a_restart(admin: SftpgoHubAdmin, sftpgo_process: SftpgoProcess) -> None:
    admin.ensure_node("renewed-1")
    HTTP.post(f"{sftpgo_process.admin_url}/restart", headers={"Authorization": f"Bearer {sftpgo_process.token}"})
    admin.ensure_node("renewed-1")
    assert admin.list("renewed-1") == ()


class Misspelling(httpx.HTTPTransport):
    """SFTPGo takes a misspelt setting with 201 and throws it away."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        body = request.read().replace(b'"denied_protocols"', b'"denied_protocolz"')
        return super().handle_request(httpx.Request(request.method, request.url, headers=request.headers, content=body))


def test_what_sftpgo_keeps_otherwise_is_noticed(
    admin: SftpgoHubAdmin, sftpgo_process: SftpgoProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with httpx.Client(transport=Misspelling()) as misspelling, monkeypatch.context() as patch:
        patch.setattr(admin._rest, "_http", misspelling)
        with pytest.raises(HubRefusedError, match="kept another denied_protocols"):
            admin.ensure_node("typo-1")
    admin.ensure_node("typo-1")
    assert sftpgo_process.user("typo-1")["filters"]["denied_protocols"] == ["FTP", "DAV", "HTTP"]


def test_rights_that_somebody_widened_are_found_and_repaired(
    admin: SftpgoHubAdmin, sftpgo_process: SftpgoProcess
) -> None:
    login = sftpgo_process.add("wide-1")
    user = sftpgo_process.user("wide-1")
    user["permissions"]["/nodes"] = ["list", "download", "upload"]
    sftpgo_process.rest("PUT", "/users/wide-1", json=user)
    accounts = {"wide-1": RosterAccount(login.public_key, False)}
    assert Drift("wide-1", DriftKind.RIGHTS) in admin.drift(lambda: {**everybody(sftpgo_process), **accounts})
    admin.ensure_node("wide-1")
    assert sftpgo_process.user("wide-1")["permissions"]["/nodes"] == ["list", "download"]
    sftpgo_process.connect(login).close()


def everybody(hub: SftpgoProcess) -> dict[str, RosterAccount]:
    """A ledger that agrees with the hub."""
    users = hub.rest("GET", "/users", params={"limit": 500}).json()
    return {user["username"]: RosterAccount((user.get("public_keys") or [None])[0], False) for user in users}


def test_drift(admin: SftpgoHubAdmin, sftpgo_process: SftpgoProcess, tmp_path: Path) -> None:
    """The unknown and the revoked are cut, live connections too; nobody is let in; all is told."""
    names = [f"drift-{what}" for what in ("closed", "fine", "key", "new", "revoked", "unknown")]
    logins = {name: sftpgo_process.add(name) for name in names}
    stranger = make_login("a.strange_Name", tmp_path)
    sftpgo_process.rest(
        "POST",
        "/users",
        json={
            "username": "a.strange_Name",
            "status": 1,
            "home_dir": str(sftpgo_process.root / "files"),
            "public_keys": [stranger.public_key],
            "permissions": {"/": ["*"]},
        },
    ).raise_for_status()
    live = {name: sftpgo_process.connect(login) for name, login in (*logins.items(), ("stranger", stranger))}
    sftpgo_process.rest("PUT", "/users/drift-closed", json={**sftpgo_process.user("drift-closed"), "status": 0})
    ledger = {
        **everybody(sftpgo_process),
        **{name: RosterAccount(login.public_key, False) for name, login in logins.items()},
        "drift-key": RosterAccount(make_login("drift-key", tmp_path).public_key, False),
        "drift-missing": RosterAccount(make_login("drift-missing", tmp_path).public_key, False),
        "drift-new": RosterAccount(None, False),  # made, not enrolled: an enrolment may be under way
        "drift-revoked": RosterAccount(logins["drift-revoked"].public_key, True),
        "drift-never-enrolled": RosterAccount(None, False),
    }
    del ledger["drift-unknown"], ledger["a.strange_Name"]
    expected = (
        Drift("a.strange_Name", DriftKind.UNKNOWN),
        Drift("drift-closed", DriftKind.CLOSED),
        Drift("drift-key", DriftKind.KEY),
        Drift("drift-missing", DriftKind.MISSING),
        Drift("drift-new", DriftKind.KEY),
        Drift("drift-revoked", DriftKind.REVOKED),
        Drift("drift-unknown", DriftKind.UNKNOWN),
    )

    def found() -> tuple[Drift, ...]:
        """Of this test's users; others may have left some that are in no order."""
        return tuple(one for one in admin.drift(lambda: ledger) if one.username.startswith(("a.", "drift-")))

    assert found() == expected
    for name in ("drift-revoked", "drift-unknown", "stranger"):
        with pytest.raises((OSError, EOFError, paramiko.SSHException)):
            live[name].open_sftp_client()
        with pytest.raises(paramiko.AuthenticationException):
            sftpgo_process.connect({**logins, "stranger": stranger}[name])
    with pytest.raises(paramiko.AuthenticationException):
        sftpgo_process.connect(logins["drift-closed"])
    for name in ("drift-fine", "drift-key", "drift-new"):
        sftpgo_process.connect(logins[name]).close()
    still = tuple(drift for drift in expected if not drift.kind.is_cut)
    assert found() == still, "what was cut is in order; the rest waits for an admin"
    for transport in live.values():
        transport.close()


def test_more_users_than_a_page(admin: SftpgoHubAdmin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.hub.sftpgo.USER_PAGE", 2)
    for number in range(5):
        admin.ensure_node(f"page-{number}")
    assert {f"page-{number}" for number in range(5)} <= {user["username"] for user in admin._all_users()}


def test_a_full_quota_keeps_what_was_published_and_release_gives_room(
    new_admin: NewAdmin, sftpgo_process: SftpgoProcess, tmp_path: Path
) -> None:
    """Over its quota SFTPGo deletes the file that is being written, also a good one: so nothing writes a final name."""
    admin = new_admin(sftpgo_process.admin_url, sftpgo_process.token, NodeLimits(quota_bytes=1_000_000))
    login = make_login("full-1", tmp_path)
    admin.ensure_node("full-1")
    admin.set_key("full-1", login.public_key)
    first, second = make_content(tmp_path, 600_000, 1), make_content(tmp_path, 600_000, 2)
    exchange = open_exchange(sftpgo_process.address(login), login.key, "full-1")
    exchange.put_tensors(first.path, "full-1", first.sha256, Watch())
    for _ in range(2):
        with pytest.raises(ExchangeError) as caught:
            exchange.put_tensors(second.path, "full-1", second.sha256, Watch())
        assert caught.value.kind is FailureKind.SPACE
    final = f"{first.sha256}.safetensors"
    assert (sftpgo_process.folder("full-1") / final).read_bytes() == first.data
    admin.release("full-1", (final,))
    assert sftpgo_process.user("full-1").get("used_quota_size", 0) == 0
    exchange.put_tensors(second.path, "full-1", second.sha256, Watch())
    exchange.close()


def test_allowed_addresses(new_admin: NewAdmin, sftpgo_process: SftpgoProcess, tmp_path: Path) -> None:
    limits = NodeLimits(allowed_addresses={"far-1": ("192.0.2.0/24",), "near-1": ("127.0.0.0/8",)})
    admin = new_admin(sftpgo_process.admin_url, sftpgo_process.token, limits)
    for name in ("far-1", "near-1"):
        login = make_login(name, tmp_path)
        admin.ensure_node(name)
        admin.set_key(name, login.public_key)
        if name == "near-1":
            sftpgo_process.connect(login).close()
        else:
            with pytest.raises(paramiko.AuthenticationException):
                sftpgo_process.connect(login)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"description": "by hand", "filters": {"hooks": {}}}, []),
        ({"status": None}, ["status"]),
        ({"public_keys": None}, ["public_keys"]),
        ({"permissions": {"/secret": ["*"]}}, ["/secret"]),
        ({"permissions": {"/nodes": ["download", "list"]}}, []),
        ({"permissions": {"/nodes": ["list"]}}, ["/nodes"]),
        ({"filters": {"denied_protocols": ["FTP", "DAV"]}}, ["denied_protocols"]),
        ({"filters": {"file_patterns": []}}, ["file_patterns"]),
        ({"groups": [{"name": "all", "type": 1}]}, ["groups"]),
        ({"quota_size": 0}, ["quota_size"]),
    ],
)
def test_differences(change: dict[str, object], expected: list[str]) -> None:
    wanted = account("site-1", "/files", NodeLimits(), keys=("ssh-ed25519 AAAA",), is_open=True)
    found = {
        key: {**value, **change[key]} if isinstance(value, dict) and key in change else change.get(key, value)
        for key, value in {**wanted, **{key: None for key in change if key not in wanted}}.items()
    }
    assert differences(wanted, found) == expected


def test_a_ban_is_told_as_such(sftpgo_process: SftpgoProcess) -> None:
    """An address that is not the coordinator's gets no token, whatever it knows."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3"), trust_env=False) as elsewhere:
        for path in ("/api/v2/token", "/api/v2/user/token"):
            reply = elsewhere.get(sftpgo_process.rest_url + path, auth=("hsl.coordinator", sftpgo_process.token))
            assert reply.status_code in (401, 403)
