"""A case of schemathesis, sent by a client of ours: no socket, and only what a client can say."""

from datetime import timedelta
from typing import Any

import httpx
from schemathesis import Case, GenerationMode

SPOKEN = ("method", "url", "headers", "params", "json", "data")


def strategies(operation: Any) -> dict[GenerationMode, Any]:
    """Cases as the document allows them, and others."""
    both = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    return {mode: operation.as_strategy(generation_mode=mode) for mode in both}


def send(http: httpx.Client, case: Case, headers: dict[str, str]) -> Any:
    made = case.as_transport_kwargs(base_url=str(http.base_url), headers=headers)
    made = {name: value for name, value in made.items() if value and name in SPOKEN}
    if isinstance(made.get("data"), bytes):
        made["content"] = made.pop("data")
    reply = http.request(**made)
    reply.elapsed = timedelta(0)  # nobody has measured it here, and the checks want to know
    return reply
