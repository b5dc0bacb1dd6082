"""What the admin API and the start of the hub refuse, in sentences."""

from hsl_model.protocol.errors import HslError


class HubError(HslError):
    """Base of the hub's own errors."""


class NoSuchNodeError(HubError):
    code = "hub_no_such_node"
    http_status = 404
    title = "The hub does not know this node"
    template = "The hub has no node {node_id!r}; create it first."


class KeyInvalidError(HubError):
    code = "hub_key_invalid"
    http_status = 422
    title = "Not an SSH public key"
    template = "The key of {node_id} is not an ssh-ed25519 public key in OpenSSH format; let the agent make its keys."


class AlreadyServedError(HubError):
    code = "hub_already_served"
    http_status = 409
    title = "Another hub works in this folder"
    template = "Another hub already serves {root}; stop it first, or use another folder."


class UsersFileError(HubError):
    code = "hub_users_unreadable"
    title = "The hub's list of nodes cannot be read"
    template = "{path} cannot be read ({reason}). Restore it; starting without it would lock out every node."
