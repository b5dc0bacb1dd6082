"""What a request about a run or round can be refused with. `code` is stable; the sentence says what to do."""

from hsl_model.protocol.errors import HslError


class RunStateError(HslError):
    code = "run_state"
    http_status = 409
    title = "The run is in another state"
    template = "Run {run_id} is {status}, so it cannot {verb}; `hsl run show {run_id}` says what is possible."


class NotEnoughMembersError(HslError):
    code = "quorum_not_accepted"
    http_status = 409
    title = "Too few sites have accepted"
    template = (
        "Run {run_id} cannot start with {lacking}; {waiting_for} must accept first (`hsl node accept {run_id}` there)."
    )


class InvitedNodeError(HslError):
    code = "node_not_invitable"
    http_status = 422
    title = "A named node cannot be invited"
    template = "{nodes}: no such node, or it was revoked; add it with `hsl nodes add`, or leave it out."


class NotAMemberError(HslError):
    code = "not_a_member"
    http_status = 403
    title = "Not a member of this run"
    template = "Node {node_id} is not a member of run {run_id}; its admin can accept only runs it was invited to."


class MembershipOverError(HslError):
    code = "membership_over"
    http_status = 409
    title = "This membership is over"
    template = "Node {node_id} cannot accept run {run_id}: {reason}. Ask the alliance's coordinator for a new run."


class SatDigestError(HslError):
    code = "sat_digest_mismatch"
    http_status = 422
    title = "Another shared anchor task"
    template = (
        "Run {run_id} needs the SAT bundle with digest {expected}, but the site has {found}; get the alliance's "
        "bundle, bind it with `hsl node bind`, and accept again."
    )


class RoundOverError(HslError):
    code = "round_over"
    http_status = 409
    title = "This round is over"
    template = "Round {round_number} of run {run_id} is {status}; the desired state says what is wanted now."


class RoundUnknownError(HslError):
    code = "round_unknown"
    http_status = 404
    title = "No such round for this node"
    template = "Node {node_id} has no part in round {round_number} of run {run_id}; ask for the desired state."


class AlreadyAnnouncedError(HslError):
    code = "already_announced"
    http_status = 409
    title = "Another update was accepted before"
    template = (
        "Update {accepted_sha256} of this node was accepted for round {round_number}; the first one counts: take that "
        "file back from the hub."
    )


class UpdateRefusedError(HslError):
    """`reason` is stable: unchanged, empty, stale, no_cases, tensors, initial."""

    code = "update_refused"
    http_status = 422
    title = "The update is not acceptable"
    template = "The update of {node_id} for round {round_number} was refused ({reason}): {explanation}"


class PlanSupersededError(HslError):
    code = "plan_superseded"
    http_status = 409
    title = "This speaks of another fusion plan"
    template = "The plan of round {round_number} is version {plan_version} now; take it from the desired state."


class ReportInvalidError(HslError):
    code = "fusion_report_invalid"
    http_status = 422
    title = "The fusion report is not acceptable"
    template = "The report of {node_id} on round {round_number} was refused: {explanation}"


class AlreadyReportedError(HslError):
    code = "already_reported"
    http_status = 409
    title = "Another fused digest was reported before"
    template = (
        "{node_id} has reported fused digest {fused_digest} for this plan; it may change only when the desired state "
        "asks to fuse again."
    )


class RefusalInvalidError(HslError):
    code = "refusal_invalid"
    http_status = 422
    title = "The refusal names no update of the plan"
    template = "The plan of round {round_number} has no update {update_sha256} of {owner}."


class FileUnknownError(HslError):
    code = "file_unknown"
    http_status = 404
    title = "No file of this run"
    template = "Run {run_id} has no file {file_sha256} with {file_bytes} bytes; only files of the ledger are published."
