from hsl_model.protocol.errors import HslError


class LedgerHeldError(HslError):
    code = "ledger_held"
    http_status = 409
    title = "The ledger was restored and is not recovered yet"
    template = "The ledger was restored from a backup: run `hsl coordinator recover` first. {because}"


class LedgerNotHeldError(HslError):
    code = "ledger_not_held"
    http_status = 409
    title = "There is nothing to recover"
    template = "The ledger (generation {generation}) is not behind what its nodes have seen, as far as they have said."


class RecordRefusedError(HslError):
    code = "record_refused"
    http_status = 422
    title = "The record is not acceptable"
    template = "The record of {node_id} was refused: {reason}"
