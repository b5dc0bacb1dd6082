"""The agent's log, line by line, reduced to words and numbers that the agent's own code says.

A line is kept when it is JSON and its event is one of ours; of its other fields those of a known shape. Sentences,
values of exceptions and everything another program or library printed are left out, and counted.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hsl_model.protocol.retry import FailureKind
from hsl_model.protocol.states import NodePhase

# Every event of this package's loggers; a test compares them with the code.
EVENTS = frozenset(
    {
        "a half-written file was removed from the hub",
        "a heartbeat was lost",
        "a key waits for this site's admin",
        "a model is not where it should be",
        "a node rotated its signing key",
        "an announced update is not there yet",
        "an errand failed",
        "asked to publish a file that is not kept here, or never leaves",
        "phase",
        "phase failed",
        "released files were deleted",
        "the admin trusts a changed key",
        "the coordinator answers again",
        "the coordinator cannot be asked",
        "the hub lets the new key in",
        "the journal cannot be used",
        "the training child wrote a line that is no reply",
        "the update that the hub lost is not here either",
        "this node's keys were rotated",
        "training child started",
        "who answers as the hub shows another host key than the pinned one, which the coordinator knows too",
    }
)


def _one_of(words: type[StrEnum]) -> re.Pattern[str]:
    return re.compile(f"^({'|'.join(words)})$")


_FIELDS: Mapping[str, re.Pattern[str]] = {
    "timestamp": re.compile(r"^\d{4}-\d{2}-\d{2}T[\d:.]{8,15}Z$"),
    "level": re.compile(r"^(debug|info|warning|error|critical)$"),
    "phase": _one_of(NodePhase),
    "kind": _one_of(FailureKind),
    "code": re.compile(r"^[a-z][a-z0-9_]{0,40}$"),
    "sha256": re.compile(r"^[0-9a-f]{64}$"),
}
_NUMBERS = ("round_number", "num_files", "num_bytes", "pid")
_TYPE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,60}$")
_SOURCE = re.compile(r"([A-Za-z0-9_]{1,60}\.py)$")
MAX_LINES = 20_000  # the last ones: days of an agent's log
MAX_LINE_CHARACTERS = 200_000


@dataclass(frozen=True)
class ReducedLog:
    lines: tuple[str, ...]
    num_left_out: int


def reduced(lines: Iterable[str]) -> ReducedLog:
    kept: deque[str] = deque(maxlen=MAX_LINES)
    num_read = 0
    for line in lines:
        num_read += 1
        found = _line(line)
        if found is not None:
            kept.append(json.dumps(found, sort_keys=True))
    return ReducedLog(tuple(kept), num_read - len(kept))


def _line(line: str) -> dict[str, Any] | None:
    """`docker compose logs` writes the service's name in front: everything before the first brace is not looked at."""
    begin = line.find("{")
    if begin < 0 or len(line) > MAX_LINE_CHARACTERS:
        return None
    try:
        given = json.loads(line[begin:])
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, dict) or not isinstance(given.get("event"), str) or given["event"] not in EVENTS:
        return None
    kept: dict[str, Any] = {"event": given["event"]}
    for name, shape in _FIELDS.items():
        if isinstance(given.get(name), str) and shape.match(given[name]):
            kept[name] = given[name]
    for name in _NUMBERS:
        if isinstance(given.get(name), int):
            kept[name] = given[name]
    if isinstance(given.get("exception"), list):
        kept["exception"] = [_raised(one) for one in given["exception"] if isinstance(one, dict)]
    return kept


def _raised(given: Mapping[str, Any]) -> dict[str, Any]:
    """Type and places in the code; never what the exception says."""
    kind = given.get("exc_type")
    frames = given.get("frames")
    places = [_place(one) for one in frames if isinstance(one, dict)] if isinstance(frames, list) else []
    return {"type": kind if isinstance(kind, str) and _TYPE.match(kind) else "?", "places": places}


def _place(frame: Mapping[str, Any]) -> str:
    source, line, name = (frame.get(key) for key in ("filename", "lineno", "name"))
    file = _SOURCE.search(source) if isinstance(source, str) else None
    shown = name if isinstance(name, str) and _TYPE.match(name) else "?"
    return f"{file[1] if file else '?'}:{line if isinstance(line, int) else '?'} {shown}"
