"""New keys for a node that goes on working: made here, told to the coordinator, then put in the place of the old.

    prepare      keys/next/ gets new files, rotation.json last          the old keys are the node's keys
    tell         POST, as often as it takes; the same again is harmless      "
    accept       keys/next/accepted                                     from here on the new ones are
    put in place each file by one rename; the old SSH key is kept as `ssh_ed25519.before`
    settle       a login at the hub with the new key works              `.before` goes

A crash anywhere leaves one of these states, and the next start goes on from it. Private keys and token never leave; the
coordinator gets public halves, the token's digest, and the old key's signature over both.
"""

import hashlib
import shutil
from pathlib import Path

from pydantic import ValidationError

from hsl_model import durable
from hsl_model.protocol.manifest import canonical_json, public_key_text
from hsl_model.protocol.messages import RotateRequest
from hsl_model.protocol.rotation import KeyRotation, access_digest, sign_rotation
from hsl_model.protocol.transport import new_token
from node_agent.enrol import TOKEN, Identity
from node_agent.keys import (
    SIGNING_KEY,
    SSH_KEY,
    SSH_KEY_BEFORE,
    load_signing_key,
    load_ssh_key,
    make_signing_key,
    make_ssh_key,
    ssh_line,
)
from node_agent.private_files import private_folder, write_private
from node_agent.settings import NodeSettings

REQUEST, ACCEPTED = "rotation.json", "accepted"


def next_folder(settings: NodeSettings) -> Path:
    return settings.keys_folder / "next"


def prepare(settings: NodeSettings, identity: Identity, *, ssh: bool, signing: bool) -> RotateRequest:
    """Make new keys and say so in a request that the present signing key signs. One that is under way is kept."""
    if (found := pending(settings)) is not None:
        return found
    folder = private_folder(next_folder(settings))
    for name in (SSH_KEY, SIGNING_KEY):
        (folder / name).unlink(missing_ok=True)  # of a preparation that was broken off
    token = new_token(identity.node_id)
    write_private(folder / TOKEN, token.encode())
    ssh_public_key, old = identity.keys.ssh_public_key, identity.keys.signing
    new = old
    if ssh:
        make_ssh_key(folder / SSH_KEY)
        ssh_public_key = ssh_line(load_ssh_key(folder / SSH_KEY))
    if signing:
        make_signing_key(folder / SIGNING_KEY)
        new = load_signing_key(folder / SIGNING_KEY)
    token_sha256 = hashlib.sha256(token.encode()).hexdigest()
    said = KeyRotation(
        node_id=identity.node_id,
        old=public_key_text(old),
        new=public_key_text(new),
        access_sha256=access_digest(ssh_public_key, token_sha256),
    )
    request = RotateRequest(
        signed=sign_rotation(said, old, new), ssh_public_key=ssh_public_key, token_sha256=token_sha256
    )
    write_private(folder / REQUEST, canonical_json(request))
    return request


def pending(settings: NodeSettings) -> RotateRequest | None:
    """What the coordinator has still to accept, as far as this site knows."""
    folder = next_folder(settings)
    if (folder / ACCEPTED).exists():
        return None
    try:
        return RotateRequest.model_validate_json((folder / REQUEST).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def accept(settings: NodeSettings) -> None:
    write_private(next_folder(settings) / ACCEPTED, b"")
    put_in_place(settings)


def put_in_place(settings: NodeSettings) -> None:
    """Finish what an accepted rotation began; nothing where there is none. Done twice is done once."""
    folder, keys = next_folder(settings), settings.keys_folder
    if not (folder / ACCEPTED).exists():
        return
    if (folder / SSH_KEY).exists():
        write_private(keys / SSH_KEY_BEFORE, (keys / SSH_KEY).read_bytes())
        _move(folder / SSH_KEY, keys / SSH_KEY)
    public = ssh_line(load_ssh_key(keys / SSH_KEY))
    write_private((keys / SSH_KEY).with_suffix(".pub"), public.encode() + b"\n")
    _move(folder / SIGNING_KEY, keys / SIGNING_KEY)
    _move(folder / TOKEN, settings.workdir / TOKEN)
    (folder / REQUEST).unlink(missing_ok=True)
    durable.fsync(folder)
    shutil.rmtree(folder)
    durable.fsync(keys)


def settled(settings: NodeSettings) -> None:
    """The hub has let the new SSH key in: the old one is of no more use."""
    (settings.keys_folder / SSH_KEY_BEFORE).unlink(missing_ok=True)
    durable.fsync(settings.keys_folder)


def _move(source: Path, target: Path) -> None:
    """Durable in both folders, the new name first."""
    if source.exists():
        source.replace(target)
        durable.fsync(target.parent)
        durable.fsync(source.parent)
