"""What the supervisor refuses or cannot do, in sentences."""

from hub_kit.errors import HubError


class ProgramMissingError(HubError):
    code = "hub_program_missing"
    title = "SFTPGo is not on this machine"
    template = "There is no sftpgo program ({looked}). Make one with `make sftpgo`, or name yours in HSL_SFTPGO."


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
