"""SFTPGo's folder: made at the first start, kept for ever after.

files/nodes/                what nodes see as /nodes
sftpgo/host_ed25519         the hub's identity, made once: nodes pin it
sftpgo/sftpgo.db            SFTPGo's users; the coordinator writes them over REST
sftpgo/provision.json       loaded at every start: the coordinator's two identities, and who is never banned
sftpgo/templates/email/     two empty files without which SFTPGo does not start
sftpgo/env.d/ping.env       lets `sftpgo ping -c sftpgo/` find the health endpoint
"""

import json
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from hsl_model.durable import write_private
from hsl_model.protocol.paths import COORDINATOR_USER, NODES
from sftpgo_hub.errors import HostKeyError
from sftpgo_hub.settings import HubSettings

ENV_FILE = Path(__file__).with_name("sftpgo.env")
TEMPLATES = ("reset-password.html", "password-expiration.html")
DUMP_VERSION = 17
DEFENDER_LIST, ALLOW = 2, 1  # SFTPGo's numbers


def prepare(settings: HubSettings) -> str:
    """Everything that must lie there before SFTPGo starts. Returns the host key's line."""
    email = settings.templates_folder / "email"
    for folder in (settings.files_folder / NODES.lstrip("/"), email, settings.server_folder / "env.d"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in TEMPLATES:
        (email / name).touch()
    write_private(settings.server_folder / "env.d" / "ping.env", _ping_env(settings).encode())
    write_private(settings.provision_file, json.dumps(provision(settings), indent=2).encode())
    return _ensure_host_key(settings.host_key_file)


def environment(settings: HubSettings) -> dict[str, str]:
    """SFTPGo's whole environment: the alliance's settings, and what only this machine knows."""
    here: dict[str, object] = {
        "SFTPD__BINDINGS__0__ADDRESS": settings.host,
        "SFTPD__BINDINGS__0__PORT": settings.port,
        "SFTPD__HOST_KEYS": settings.host_key_file,  # named, so that SFTPGo never makes others
        "HTTPD__BINDINGS__0__ADDRESS": settings.admin_host,
        "HTTPD__BINDINGS__0__PORT": settings.rest_port,
        "TELEMETRY__BIND_ADDRESS": settings.metrics_host,
        "TELEMETRY__BIND_PORT": settings.metrics_port,
        "SMTP__TEMPLATES_PATH": settings.templates_folder,
        "LOADDATA_FROM": settings.provision_file,
        "LOADDATA_MODE": 0,  # updates what is there: a changed token counts
    }
    return {**read_env(ENV_FILE), **{f"SFTPGO_{name}": str(value) for name, value in here.items()}}


def read_env(path: Path) -> dict[str, str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def provision(settings: HubSettings) -> dict[str, object]:
    """Loaded over what SFTPGo keeps. Order of its loading: safe list, user, admin; so an admin that can log in proves
    that all of it was accepted.

    The user is the coordinator among the files: it lists, makes the nodes' folders and deletes; it never reads.
    """
    secret, networks = settings.admin_token.get_secret_value(), list(settings.coordinator_addresses)
    never_banned = [
        {"ipornet": network, "type": DEFENDER_LIST, "mode": ALLOW, "protocols": 0, "description": "coordinator"}
        for network in networks
    ]
    user = {
        "username": COORDINATOR_USER,
        "status": 1,
        "password": secret,
        "home_dir": str(settings.files_folder.resolve()),
        "permissions": {"/": ["list"], NODES: ["list", "create_dirs", "delete_files"]},
        "filters": {
            "denied_protocols": ["SSH", "FTP", "DAV"],
            "allowed_ip": networks,
            "web_client": ["password-change-disabled", "api-key-auth-change-disabled", "shares-disabled"],
        },
    }
    admin = {
        "username": COORDINATOR_USER,
        "status": 1,
        "password": secret,
        "permissions": ["view_users", "add_users", "edit_users", "quota_scans"],  # what SftpgoHubAdmin does
        "filters": {"allow_list": networks},
    }
    return {"version": DUMP_VERSION, "ip_lists": never_banned, "users": [user], "admins": [admin]}


def _ping_env(settings: HubSettings) -> str:
    return (
        f"SFTPGO_TELEMETRY__BIND_ADDRESS={settings.metrics_host}\nSFTPGO_TELEMETRY__BIND_PORT={settings.metrics_port}\n"
    )


def _ensure_host_key(path: Path) -> str:
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        write_private(path, made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise HostKeyError(path=path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HostKeyError(path=path)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
