"""The append-only ledger: every change of a status leaves one row in the same transaction."""
