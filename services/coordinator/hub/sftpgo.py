"""`HubAdmin` for SFTPGo. A node's account is one user of SFTPGo's, and where it stands can be read from that user:

                       ┌───────────────────── set_key(another) ─────────────────────┐
                       v                                                             │
    no user ──> closed, no key ──set_key──> open, one key ──cut──> closed, with key ─┴─restart─> closed, no key
       ensure_node                                                 (sessions may live)

A disabled user's open connections live on with their old rights; only a restart of SFTPGo ends them for certain. The
key of a closed user is removed after that restart: so a cut that was interrupted anywhere is found unfinished and done
again, and whoever has no key has no session either. Every write replaces the whole user (SFTPGo's way) and is read
back, since what SFTPGo does not understand it ignores.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from coordinator.hub.admin import (
    Drift,
    DriftKind,
    HubAdminError,
    HubAnswerError,
    HubFile,
    HubRefusedError,
    RosterAccount,
)
from coordinator.hub.sftpgo_rest import Doing, Identity, SftpgoRest
from coordinator.hub.sftpgo_user import NodeLimits, User, account, differences, is_open, keys_of
from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.paths import COORDINATOR_USER, NODES, node_folder

USERS, USER_PAGE = "/api/v2/users", 100
DIRS, FILES = "/api/v2/user/dirs", "/api/v2/user/files"
NOT_REGULAR = 0x8F280000  # Go's file modes: folder, link, pipe, device, …


class _Entry(BaseModel):
    name: str
    size: int = 0
    mode: int


_ENTRIES = TypeAdapter(list[_Entry])
_FOUND_USERS = TypeAdapter(list[dict[str, Any]])
Entries = list[_Entry]  # `list` means something else inside the class
Users = list[User]


class SftpgoHubAdmin:
    """Safe to use from several threads. A node id outside the layout is `RemotePathError`, before anything is sent."""

    def __init__(self, admin_url: str, admin_token: str, limits: NodeLimits | None = None) -> None:
        self._rest = SftpgoRest(admin_url, admin_token)
        self._limits = limits or NodeLimits()
        self._turn = threading.Lock()  # users are replaced whole: two changes at once would undo each other

    # --- accounts ----------------------------------------------------------------------------------------------------

    def ensure_node(self, node_id: str) -> None:
        folder = node_folder(node_id)
        doing = ("create node", node_id)
        with self._turn:
            if self._entries(folder, doing) is None:
                self._rest.call(Identity.FILES, "POST", DIRS, doing, params={"path": folder})
            found = self._find(node_id, doing)
            if found is None:
                self._rest.call(Identity.ADMIN, "POST", USERS, doing, json=self._user(node_id, (), is_open=False))
                self._check(node_id, (), False, doing)
            elif differences(self._user(node_id, keys_of(found), is_open=is_open(found)), found):
                self._replace(node_id, keys_of(found), is_open(found), doing)
                if keys_of(found):  # its sessions have the rights of before
                    self._rest.restart(node_id)

    def set_key(self, node_id: str, ssh_public_key: str) -> None:
        node_folder(node_id)
        doing = ("set the key of", node_id)
        key = " ".join(ssh_public_key.split()[:2])
        with self._turn:
            found = self._find(node_id, doing)
            if found is None:
                raise HubRefusedError(action=doing[0], node_id=node_id, reason="it has no such node; create it first")
            if not differences(self._user(node_id, (key,), is_open=True), found):
                return
            if keys_of(found):
                self._close(node_id, found, doing)
            self._replace(node_id, (key,), True, doing)

    def cut(self, node_id: str) -> None:
        node_folder(node_id)
        doing = ("cut", node_id)
        with self._turn:
            found = self._find(node_id, doing)
            if found is not None:
                self._close(node_id, found, doing)

    def _close(self, username: str, found: User, doing: Doing) -> None:
        """To `closed, no key`, from wherever the user stands."""
        if is_open(found):
            self._replace(username, keys_of(found), False, doing)
        if keys_of(found):
            self._rest.restart(username)
        if is_open(found) or keys_of(found):
            self._replace(username, (), False, doing)

    def drift(self, roster: Callable[[], Mapping[str, RosterAccount]]) -> tuple[Drift, ...]:
        """Compare the hub's users with the ledger, sorted by name. Who is unknown or revoked is cut at once; everything
        else is only told, as it takes an admin to let somebody in. `roster` is asked after the hub, so that a node made
        meanwhile is not taken for unknown."""
        found = {user["username"]: user for user in self._all_users() if user["username"] != COORDINATOR_USER}
        known = roster()
        drifts = []
        for name in sorted({*found, *known}):
            kind = self._judge(found.get(name), name, known.get(name))
            if kind is None:
                continue
            if kind.is_cut:
                self._cut_stranger(name)
            drifts.append(Drift(name, kind))
        return tuple(drifts)

    def _judge(self, user: User | None, name: str, account: RosterAccount | None) -> DriftKind | None:
        may_have_sessions = user is not None and bool(is_open(user) or keys_of(user))
        if account is None or account.is_revoked:
            kind = DriftKind.UNKNOWN if account is None else DriftKind.REVOKED
            return kind if may_have_sessions else None
        if user is None:
            return DriftKind.MISSING if account.ssh_public_key else None
        if account.ssh_public_key and not is_open(user):
            return DriftKind.CLOSED
        if is_open(user) and keys_of(user) != (account.ssh_public_key,):
            return DriftKind.KEY
        wanted = self._user(name, keys_of(user), is_open=is_open(user))
        return DriftKind.RIGHTS if differences(wanted, user) else None

    def _cut_stranger(self, username: str) -> None:
        """A user that may have any name and shape: closed as it is, for an admin to look at."""
        doing = ("cut", username)
        with self._turn:
            found = self._find(username, doing)
            if found is not None:
                self._rest.call(Identity.ADMIN, "PUT", f"{USERS}/{username}", doing, json={**found, "status": 0})
                self._rest.restart(username)
                closed = {**found, "status": 0, "public_keys": []}
                self._rest.call(Identity.ADMIN, "PUT", f"{USERS}/{username}", doing, json=closed)
                self._expect({"status": 0, "public_keys": []}, username, doing)

    # --- files -------------------------------------------------------------------------------------------------------

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        folder = node_folder(node_id)
        entries = self._entries(folder, ("list", node_id)) or []
        files = (HubFile(entry.name, entry.size) for entry in entries if not entry.mode & NOT_REGULAR)
        return tuple(sorted((file for file in files if _is_of_layout(folder, file.name)), key=lambda file: file.name))

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        folder, doing = node_folder(node_id), ("release files of", node_id)
        for name in names:
            if not _is_of_layout(folder, name):
                raise HubRefusedError(action=doing[0], node_id=node_id, reason=f"{name!r} is no file of the layout")
        for name in names:
            self._rest.call(Identity.FILES, "DELETE", FILES, doing, params={"path": f"{folder}/{name}"})
        if names:
            self._count_anew(node_id, doing)

    def _count_anew(self, node_id: str, doing: Doing) -> None:
        """SFTPGo takes what we delete from our quota, not from the node's, which would fill up with files long gone."""
        files = self.list(node_id)
        usage = {"used_quota_size": sum(file.num_bytes for file in files), "used_quota_files": len(files)}
        path = f"/api/v2/quotas/users/{node_id}/usage"
        self._rest.call(Identity.ADMIN, "PUT", path, doing, params={"mode": "reset"}, json=usage)

    # --- the hub -----------------------------------------------------------------------------------------------------

    def address(self, node_id: str) -> HubAddress:
        found = self._rest.address()
        return HubAddress(host=found.host, port=found.port, username=node_id, host_key=found.host_key)

    def healthy(self) -> bool:
        try:
            self._rest.address()
            self._entries(NODES, ("answer", ""))
            self._find(COORDINATOR_USER, ("answer", ""))
        except HubAdminError:
            return False
        return True

    def close(self) -> None:
        self._rest.close()

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _user(self, node_id: str, keys: tuple[str, ...], *, is_open: bool) -> User:
        home = self._rest.address().files_folder
        return account(node_id, home, self._limits, keys=keys, is_open=is_open)

    def _find(self, username: str, doing: Doing) -> User | None:
        reply = self._rest.call(Identity.ADMIN, "GET", f"{USERS}/{username}", doing)
        if reply is None:
            return None
        return self._users_of(b"[" + reply.content + b"]", reply.status_code)[0]

    def _all_users(self) -> Users:
        users: Users = []
        while True:
            page = {"limit": USER_PAGE, "offset": len(users), "order": "ASC"}
            reply = self._rest.call(Identity.ADMIN, "GET", USERS, ("list", "its users"), params=page)
            found = self._users_of(reply.content, reply.status_code) if reply is not None else []
            users += found
            if len(found) < USER_PAGE:
                return users

    def _users_of(self, content: bytes, status: int) -> Users:
        try:
            users = _FOUND_USERS.validate_json(content)
        except ValidationError as error:
            raise HubAnswerError(url=self._rest.url, status=status) from error
        if not all(isinstance(user.get("username"), str) for user in users):
            raise HubAnswerError(url=self._rest.url, status=status)
        return users

    def _replace(self, node_id: str, keys: tuple[str, ...], is_open: bool, doing: Doing) -> None:
        wanted = self._user(node_id, keys, is_open=is_open)
        self._rest.call(Identity.ADMIN, "PUT", f"{USERS}/{node_id}", doing, json=wanted)
        self._check(node_id, keys, is_open, doing)

    def _check(self, node_id: str, keys: tuple[str, ...], is_open: bool, doing: Doing) -> None:
        self._expect(self._user(node_id, keys, is_open=is_open), node_id, doing)

    def _expect(self, wanted: User, username: str, doing: Doing) -> None:
        found = self._find(username, doing)
        if wrong := differences(wanted, found or {}):
            reason = f"it accepted the change and kept another {', '.join(wrong)}"
            raise HubRefusedError(action=doing[0], node_id=username, reason=reason)

    def _entries(self, folder: str, doing: Doing) -> Entries | None:
        reply = self._rest.call(Identity.FILES, "GET", DIRS, doing, params={"path": folder})
        if reply is None:
            return None
        try:
            return _ENTRIES.validate_json(reply.content)
        except ValidationError as error:
            raise HubAnswerError(url=self._rest.url, status=reply.status_code) from error


def _is_of_layout(folder: str, name: str) -> bool:
    try:
        paths.parse(f"{folder}/{name}")
    except RemotePathError:
        return False
    return True
