"""Words on the wire and in the tables. Imports nothing heavier than pydantic and cryptography; never torch or numpy."""

PROTOCOL_VERSION = 1
"""The coordinator serves this version and the one before it; anything else is answered 426."""

PROTOCOL_HEADER = "X-HSL-Protocol"
