"""What the admin API and the start of the hub refuse, in sentences."""

from hub_kit.errors import HubError


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


class UsersFileError(HubError):
    code = "hub_users_unreadable"
    title = "The hub's list of nodes cannot be read"
    template = "{path} cannot be read ({reason}). Restore it; starting without it would lock out every node."
