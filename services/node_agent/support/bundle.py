"""One archive, readable by its owner only, with a list of what is in it and why. Equal states give equal bytes."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsl_model import durable
from hsl_model.protocol.clock import Clock
from node_agent.enrol import load_identity
from node_agent.journal import Journal
from node_agent.settings import NodeSettings
from node_agent.support import parts
from node_agent.support.logs import reduced

LOG_NAMES = ("agent.log",)  # where `hsl node serve 2>> agent.log` puts it; the agent itself writes to stderr
NO_LOG = (
    "no log here: the agent writes it to stderr, so `docker compose logs` or `journalctl` has it; write that to a file "
    "and name it with --log"
)
FOLDER = "hsl-support"


@dataclass(frozen=True)
class Item:
    """`data` None: there is none, and `why` says so."""

    name: str
    why: str
    data: bytes | None


def write_bundle(settings: NodeSettings, output: Path, logs: Iterable[Path], clock: Clock) -> tuple[Item, ...]:
    """Write the archive to `output`, mode 0600. Raises `NotEnrolledError`, `OSError` for a log that cannot be read."""
    load_identity(settings)  # refuses a folder that is not an agent's, instead of making a journal there
    items = tuple(_items(settings, tuple(logs), clock))
    listed = [f"{item.name}: {item.why}" for item in items]
    contents = Item("contents.txt", "this list", "\n".join([*listed, *_NEVER, ""]).encode())
    items = (contents, *items)
    durable.write_private(output.absolute(), _archive(item for item in items if item.data is not None))
    return items


_NEVER = (
    "",
    "Never in it: images, labels, file names, paths, patients, counts of cases; tokens, keys, passwords.",
)


def _items(settings: NodeSettings, logs: tuple[Path, ...], clock: Clock) -> Iterator[Item]:
    workdir = settings.workdir
    yield Item("check.json", "the last `hsl node check`, or null: ways, speeds, disk", _json(parts.check_part(workdir)))
    yield Item(
        "disk.json", "room on the disk, and how much each of the agent's folders takes", _json(parts.disk_part(workdir))
    )
    with _journal(settings, clock) as journal:
        yield Item(
            "egress.json",
            "sums of what left this site, and whether the ledger is whole",
            _json(parts.egress_part(journal)),
        )
        yield Item(
            "journal.json",
            "phase, attempts, codes of failures, digests of the round",
            _json(parts.journal_part(journal)),
        )
    yield _log(workdir, logs)
    yield Item(
        "settings.json", "how the agent is set up, without paths and secrets", _json(parts.settings_part(settings))
    )
    yield Item("versions.json", "which versions run here", _json(parts.versions()))


def _log(workdir: Path, given: tuple[Path, ...]) -> Item:
    files = given or tuple(path for name in LOG_NAMES if (path := workdir / name).is_file())
    if not files:
        return Item("log.jsonl", NO_LOG, None)
    found = reduced(_lines(files))
    why = f"the agent's own events; {found.num_left_out} other lines are left out"
    return Item("log.jsonl", why, "".join(f"{line}\n" for line in found.lines).encode())


def _lines(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from file


@contextmanager
def _journal(settings: NodeSettings, clock: Clock) -> Iterator[Journal]:
    with closing(Journal(settings.journal_path, clock)) as journal:
        yield journal


def _json(part: parts.Part | None) -> bytes:
    return (json.dumps(part, indent=1, sort_keys=True) + "\n").encode()


def _archive(items: Iterable[Item]) -> bytes:
    """No time, user or machine in it."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for item in items:
            info = tarfile.TarInfo(f"{FOLDER}/{item.name}")
            info.size, info.mode = len(item.data or b""), 0o600
            archive.addfile(info, io.BytesIO(item.data or b""))
    return raw.getvalue()
