from hsl_model.protocol.errors import HslError


class NodeExistsError(HslError):
    code = "node_exists"
    http_status = 409
    title = "The node exists already"
    template = (
        "There is a node {node_id} already; choose another id, or give it a new code with "
        "`hsl nodes add {node_id} --new-code`."
    )


class RevokedForeverError(HslError):
    code = "node_is_revoked"
    http_status = 409
    title = "The node was revoked"
    template = "Node {node_id} was revoked, and that is final; add the site as a node with another id."


class EnrolmentCodeError(HslError):
    """One error for a wrong, used and expired code: it must not tell a stranger which nodes or codes exist."""

    code = "enrolment_code_invalid"
    http_status = 403
    title = "This enrolment code does not work"
    template = (
        "The enrolment code is wrong, expired, or was used already; ask the alliance's admin for a new one "
        "(`hsl nodes add NODE --new-code`)."
    )


class PublicKeyError(HslError):
    code = "public_key_invalid"
    http_status = 422
    title = "Not an Ed25519 public key"
    template = "{field} is not an Ed25519 public key ({expected}); let the agent make its keys."


class HubUnknownError(HslError):
    """Told to strangers, so it says nothing of what is behind the coordinator."""

    code = "hub_unknown"
    http_status = 503
    title = "The hub's address is not known now"
    template = "The coordinator cannot say now where its hub is; ask again in a minute, or ask the alliance's admin."


class RotationRefusedError(HslError):
    code = "rotation_refused"
    http_status = 403
    title = "These new keys are not accepted"
    template = (
        "The new keys of node {node_id} were refused: {reason}. The keys of before go on working; where they are lost, "
        "ask the alliance's admin for a new code and enrol again."
    )


class RotationTooSoonError(HslError):
    code = "rotation_too_soon"
    http_status = 429
    title = "Keys were rotated a moment ago"
    template = "Node {node_id} rotated its keys less than {seconds} s ago; the same request passes after that time."


class HubUnreachableError(HslError):
    code = "hub_unreachable"
    http_status = 503
    title = "The hub does not answer"
    template = (
        "The hub cannot make the node's account now; nothing was used up, so try again with the same code. "
        "The alliance's admin should look whether the hub is running."
    )
