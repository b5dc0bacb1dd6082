"""What a node's account on SFTPGo is, as one pure function, and how another one is told from it.

    /                    list
    /nodes               list, download; what still grows (`*.part`) is hidden
    /nodes/<its own>     list, download, upload, overwrite, rename, delete; files of the layout only

SFTPGo takes the nearest folder that is listed, so a node has nothing but reading in the others' folders. No rights on
folders: they are the coordinator's to make, and nobody can move or remove one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hsl_model.protocol.paths import NODES, node_folder

GIB = 1 << 30
OWN_RIGHTS = ("list", "download", "upload", "overwrite", "rename_files", "delete_files")
OTHER_PROTOCOLS = ("FTP", "DAV", "HTTP")
OTHER_LOGINS = (
    "password",
    "password-over-SSH",
    "keyboard-interactive",
    "publickey+password",
    "publickey+keyboard-interactive",
    "TLSCertificate",
    "TLSCertificate+password",
)
LAYOUT = ("*.part", "*.safetensors", "*.json")
HIDE = 1  # SFTPGo's number: not only denied, but not to be seen
MAX_SESSIONS = 64  # channels and commands of one node: an agent that leaks them must not take the server's memory
MAX_FILES = 20_000  # a folder that can still be listed

User = dict[str, Any]


@dataclass(frozen=True)
class NodeLimits:
    """`quota_bytes` 0: none. A write over the quota deletes the part being written, never a published file, as those
    are not written to. `allowed_addresses`: networks from which a node may log in; others may from anywhere."""

    quota_bytes: int = 50 * GIB
    allowed_addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def account(node_id: str, home: str, limits: NodeLimits, *, keys: tuple[str, ...], is_open: bool) -> User:
    """The whole user. `status` must be sent or it is disabled; empty lists, because a write replaces everything."""
    own = node_folder(node_id)
    return {
        "username": node_id,
        "status": int(is_open),
        "home_dir": home,
        "public_keys": list(keys),
        "permissions": {"/": ["list"], NODES: ["list", "download"], own: list(OWN_RIGHTS)},
        "quota_size": limits.quota_bytes,
        "quota_files": MAX_FILES if limits.quota_bytes else 0,
        "max_sessions": MAX_SESSIONS,
        "expiration_date": 0,
        "groups": [],
        "virtual_folders": [],
        "filters": {
            "denied_protocols": list(OTHER_PROTOCOLS),
            "denied_login_methods": list(OTHER_LOGINS),
            "allowed_ip": list(limits.allowed_addresses.get(node_id, ())),
            "file_patterns": [
                {"path": NODES, "denied_patterns": ["*.part"], "deny_policy": HIDE},
                {"path": own, "allowed_patterns": list(LAYOUT)},
            ],
        },
    }


def is_open(user: User) -> bool:
    return bool(user.get("status"))


def keys_of(user: User) -> tuple[str, ...]:
    return tuple(" ".join(key.split()[:2]) for key in user.get("public_keys") or ())


def differences(wanted: Any, found: Any, name: str = "user") -> list[str]:
    """Names of the settings that `found` has otherwise. What SFTPGo leaves out is empty, 0 or closed; the order of a
    list means nothing. Settings of its own that we do not write are not compared, except in `permissions`, where each
    is a right."""
    if isinstance(wanted, dict):
        found = found or {}
        keys = {*wanted, *found} if name == "permissions" else set(wanted)
        return [what for key in sorted(keys) for what in differences(wanted.get(key), found.get(key), key)]
    if isinstance(wanted, list):
        return [] if sorted(map(_key, wanted)) == sorted(map(_key, found or [])) else [name]
    return [] if (wanted or 0) == (found or 0) else [name]


def _key(item: Any) -> str:
    """Lists compare by their items' settings that are not empty."""
    return repr(sorted((key, value) for key, value in item.items() if value)) if isinstance(item, dict) else str(item)
