"""What any hub refuses, in sentences."""

from hsl_model.protocol.errors import HslError


class HubError(HslError):
    """Base of the hubs' own errors."""


class AlreadyServedError(HubError):
    code = "hub_already_served"
    http_status = 409
    title = "Another hub works in this folder"
    template = "Another hub already serves {root}; stop it first, or use another folder."


class TokenWrongError(HubError):
    code = "hub_token_wrong"
    http_status = 401
    title = "Not the hub's admin token"
    template = "The token is missing or not the hub's HSL_HUB_ADMIN_TOKEN."
