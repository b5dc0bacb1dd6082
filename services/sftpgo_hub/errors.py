"""What the supervisor refuses or cannot do, in sentences."""

from hsl_model.protocol.errors import HslError


class HubError(HslError):
    """Base of the hub's own errors."""


class ProgramMissingError(HubError):
    code = "hub_program_missing"
    title = "SFTPGo is not on this machine"
    template = "There is no sftpgo program ({looked}). Make one with `make sftpgo`, or name yours in HSL_SFTPGO."


class AlreadyServedError(HubError):
    code = "hub_already_served"
    http_status = 409
    title = "Another hub works in this folder"
    template = "Another hub already serves {root}; stop it first, or use another folder."


class HostKeyError(HubError):
    code = "hub_host_key_unreadable"
    title = "The hub's host key cannot be read"
    template = (
        "{path} is not an Ed25519 private key. Restore it: nodes have pinned it, with another one they all refuse."
    )


class ServerFailedError(HubError):
    code = "hub_server_failed"
    http_status = 503
    title = "SFTPGo does not come up"
    template = "SFTPGo {what}; the log of this hub says more."


class TokenWrongError(HubError):
    code = "hub_token_wrong"
    http_status = 401
    title = "Not the hub's admin token"
    template = "The token is missing or not the hub's HSL_HUB_ADMIN_TOKEN."
