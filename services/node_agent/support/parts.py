"""The parts of the bundle, each from named fields of what the agent keeps. Only the last check has sentences."""

import platform
import shutil
import sqlite3
import stat
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx

from hsl_model.protocol import PROTOCOL_VERSION
from node_agent.check.finding import CheckReport
from node_agent.check.run import LAST_CHECK
from node_agent.egress import verify
from node_agent.enrol import AGENT_VERSION, load_identity
from node_agent.errors import EgressBrokenError, NotEnrolledError
from node_agent.facts import RoundFacts
from node_agent.journal import MIGRATIONS, Journal, PhaseRow
from node_agent.proxy import ProxyAddressError, proxy_for
from node_agent.settings import NodeSettings

Part = Mapping[str, Any]

LIBRARIES = (
    "cryptography", "fastapi", "httpx", "numpy", "paramiko", "pillow", "pydantic", "safetensors", "torch", "uvicorn",
)  # fmt: skip
# Settings that are numbers or one of a few words. Paths, addresses, commands and secrets have their own lines below.
PLAIN_SETTINGS = (
    "device", "num_threads", "snapshot_every_steps", "micro_batch_size", "channels_last", "compiled",
    "cache_on_device", "site_port", "poll_wait_s",
    "heartbeat_interval_s", "retry_cap_s", "training_stall_s", "max_upload_bytes_per_s", "max_download_bytes_per_s",
    "log_level",
)  # fmt: skip
FOLDERS = ("bindings", "cache", "keys", "models", "runs", "store")


def versions() -> Part:
    return {
        "agent": AGENT_VERSION,
        "protocol": PROTOCOL_VERSION,
        "journal_known": len(MIGRATIONS),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def settings_part(settings: NodeSettings) -> Part:
    """Of an address only scheme, host and port; of the proxy also whether it gets credentials."""
    try:
        identity = load_identity(settings).node
    except NotEnrolledError:
        identity = None
    url = settings.coordinator_url or (identity and identity.coordinator_url)
    coordinator = httpx.URL(url) if url else None
    return {
        **{name: getattr(settings, name) for name in PLAIN_SETTINGS},
        "is_enrolled": identity is not None,
        "node_id": identity and identity.node_id,
        "coordinator": coordinator and f"{coordinator.scheme}://{coordinator.host}:{coordinator.port or ''}",
        "hub": identity and f"{identity.hub.host}:{identity.hub.port}",
        "proxy_to_coordinator": coordinator and _proxy(settings, coordinator.host, coordinator.port or 443),
        "proxy_to_hub": identity and _proxy(settings, identity.hub.host, identity.hub.port),
    }


def _proxy(settings: NodeSettings, host: str, port: int) -> str:
    try:
        proxy = proxy_for(settings, host, port)
    except ProxyAddressError:
        return "set, and not usable"
    if proxy is None:
        return "none"
    return f"{proxy.place}, {'with' if proxy.credentials else 'without'} credentials"


def journal_part(journal: Journal) -> Part:
    """Where the node stands. Of a failure kind and code, by which the source has the sentence; not the sentence."""
    row = journal.current()
    with journal.transaction() as connection:
        consents = connection.execute("SELECT run_id, answer, told, problem FROM consents ORDER BY run_id").fetchall()
        kept = connection.execute(
            "SELECT run_id, kind, COUNT(*) AS files, SUM(num_bytes) AS bytes, MAX(round_number) AS newest_round"
            " FROM kept_files GROUP BY run_id, kind ORDER BY run_id, kind"
        ).fetchall()
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return {
        "journal_version": version,
        "boot_number": journal.boot_number,
        "paused_by_site": journal.paused,
        **_row(row),
        "runs": [_consent(one) for one in consents],
        "kept_files": [dict(one) for one in kept],
    }


def _row(row: PhaseRow) -> Part:
    failure = row.failure
    return {
        "phase": row.phase,
        "since": row.since.isoformat(),
        "attempt": row.attempt,
        "retry_at": row.retry_at and row.retry_at.isoformat(),
        "failed_phase": row.failed_phase,
        "failure": failure and {"kind": failure.kind, "code": failure.code},
        "facts": row.facts and _facts(row.facts),
    }


def _facts(facts: RoundFacts) -> Part:
    plan = facts.planned
    return {
        "run_id": facts.run_id,
        "round_number": facts.round_number,
        "method": facts.config.method.name,
        "encoder": facts.config.network.encoder,
        "batch_size": facts.config.training.batch_size,
        "num_members": len(facts.config.nodes),
        "start": facts.start and facts.start.fused_digest,
        "update": facts.update and {"sha256": facts.update.sha256, "num_bytes": facts.update.num_bytes},
        "is_signed": facts.signed is not None,
        "accepted_sha256": facts.accepted_sha256,
        "plan": plan and {"version": plan.plan.version, "redo": plan.redo, "entries": len(plan.plan.entries)},
        "fused": facts.fused and facts.fused.digest,
        "costs": facts.costs.model_dump(mode="json"),
    }


def _consent(row: sqlite3.Row) -> Part:
    return {
        "run_id": row["run_id"],
        "answer": row["answer"],
        "told": bool(row["told"]),
        "has_problem": row["problem"] is not None,
    }


def egress_part(journal: Journal) -> Part:
    """Sums by kind; neither destinations nor names."""
    try:
        found = verify(journal)
    except EgressBrokenError as error:
        whole: Part = {"is_whole": False, "code": error.code}
    else:
        whole = {"is_whole": True, "num_entries": found.num_entries, "num_bytes": found.num_bytes, "head": found.head}
    with journal.transaction() as connection:
        rows = connection.execute(
            "SELECT kind, COUNT(*) AS entries, SUM(num_bytes) AS bytes, MIN(at) AS first_at, MAX(at) AS last_at"
            " FROM egress GROUP BY kind ORDER BY kind"
        ).fetchall()
    return {**whole, "by_kind": [dict(row) for row in rows]}


def disk_part(workdir: Path) -> Part:
    usage = shutil.disk_usage(workdir)
    return {
        "total_bytes": usage.total,
        "free_bytes": usage.free,
        "folders": {name: _sum(workdir / name) for name in FOLDERS},
        "journal_bytes": _size(workdir / "journal.sqlite"),
    }


def _sum(folder: Path) -> Part:
    sizes = [size for path in folder.rglob("*") if (size := _size(path)) is not None] if folder.is_dir() else []
    return {"files": len(sizes), "bytes": sum(sizes)}


def _size(path: Path) -> int | None:
    """None for what is no file, or no longer there: the agent goes on beside us."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def check_part(workdir: Path) -> Part | None:
    """The last `hsl node check`: its sentences are about machines and figures. None: there was none."""
    path = workdir / LAST_CHECK
    if not path.is_file():
        return None
    return CheckReport.model_validate_json(path.read_bytes()).model_dump(mode="json")
