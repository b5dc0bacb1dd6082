"""The table of planted bugs: the mistake, the functions it replaces, the tests that must go red. One entry a bug."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.planted.plant import Bug, Make
from tests.simulator import planted


def does_nothing(_: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: None


def swallows(right: Any) -> Callable[..., Any]:
    """Does it, and looks away when it fails."""

    def call(*args: Any, **kwargs: Any) -> None:
        with suppress(Exception):
            right(*args, **kwargs)

    return call


def looks_only_at_the_file(_: Any) -> Callable[..., bool]:
    def bytes_are_right(context: Any, facts: Any) -> bool:
        return all(context.store.is_intact(entry.update_sha256) for entry in facts.plan.entries)

    return bytes_are_right


def may_also(right: str, folder: str) -> Make:
    """A node's account on SFTPGo with one right too many."""

    def make(account: Any) -> Callable[..., Any]:
        def generous(*args: Any, **kwargs: Any) -> Any:
            user = account(*args, **kwargs)
            user["permissions"][folder] = [*user["permissions"][folder], right]
            return user

        return generous

    return make


def then_commits(right: Any) -> Callable[..., Any]:
    """The row moves in a transaction of its own; its event follows in another."""

    def call(session: Any, *args: Any, **kwargs: Any) -> Any:
        moved = right(session, *args, **kwargs)
        session.connection().exec_driver_sql("COMMIT")
        session.connection().exec_driver_sql("BEGIN IMMEDIATE")
        return moved

    return call


def only_of_folders(right: Any) -> Callable[..., None]:
    return lambda path: right(path) if path.is_dir() else None


def believes_the_name(_: Any) -> Callable[..., str]:
    return lambda exchange, path, *args: path.rsplit("/", 1)[1].split(".")[0]


def goes_back_64_kib(_: Any) -> Callable[..., int]:
    return lambda size, total: max(0, size - (64 << 10)) if size <= total else 0


CRASH = "tests/crash/test_crash_points.py::test_where_a_mistake_would_show"
FAULTS = "tests/faults/test_server.py"
SEEDS = "tests/simulator/test_seeds.py::test_every_seed_is_safe_and_ends"
HUB_ADMIN = "tests/coordinator/hub/test_hub_admin.py"
INTERRUPTIONS = "tests/node_agent/exchange/test_interruptions.py"
RULES = "tests/node_agent/test_daemon_rules.py"

BUGS = {
    "ignores CLOSE": Bug(
        "An upload does not look at the status of CLOSE, where a full disk or quota is told last.",
        {"node_agent.exchange.pipeline:RemoteFile.close": swallows},
        (f"{INTERRUPTIONS}::test_a_close_that_fails_publishes_nothing",),
    ),
    "no manifest": Bug(
        "A file whose digest is the announced one is fused, whatever its manifest says, or without one.",
        {
            "node_agent.phases.collecting:_get_manifest": does_nothing,
            "node_agent.phases.verifying:_bytes_are_right": looks_only_at_the_file,
            "node_agent.phases.verifying:_why_not": does_nothing,
        },
        (
            f"{RULES}::test_an_update_signed_by_somebody_else_is_refused",
            f"{RULES}::test_an_update_of_another_round_is_refused",
        ),
    ),
    "upload on nodes": Bug(
        "A node's account on SFTPGo may upload beside the nodes' folders, so into them.",
        {"coordinator.hub.sftpgo_user:account": may_also("upload", "/nodes")},
        ("tests/sftpgo/test_permissions.py::test_the_matrix",),
        (pytest.mark.sftpgo,),
    ),
    "connection left": Bug(
        "A cut disables the user on SFTPGo and leaves the connection it has.",
        {"coordinator.hub.sftpgo_rest:SftpgoRest.restart": does_nothing},
        (
            f"{HUB_ADMIN}::test_cut_ends_sessions_and_keeps_files[sftpgo]",
            f"{HUB_ADMIN}::test_a_new_key_takes_the_place_of_the_old[sftpgo]",
        ),
        (pytest.mark.sftpgo,),
    ),
    "size for hash": Bug(
        "An upload is published when its size is right, whatever the hub's digest.",
        {"node_agent.exchange.sftp:SftpExchange._hub_sha256": believes_the_name},
        (f"{FAULTS}::test_a_part_that_is_wrong_elsewhere_is_not_published",),
        (pytest.mark.sftpgo,),
    ),
    "shorter rewind": Bug(
        "A resumed upload goes back 64 KiB, less than a stopped server loses.",
        {"node_agent.exchange.sftp:upload_offset": goes_back_64_kib},
        (f"{FAULTS}::test_holes_that_a_stopped_server_left_are_written_over",),
        (pytest.mark.sftpgo,),
    ),
    "no fsync of files": Bug(
        "A file gets its name before its bytes are on the disk.",
        {"hsl_model.durable:fsync": only_of_folders},
        (f"{CRASH}[models]",),
    ),
    "commits before the event": Bug(
        "A status changes in one transaction, and the event that tells of it is written in the next.",
        {"coordinator.rounds.moves:guarded_update": then_commits},
        (f"{CRASH}[commits]",),
    ),
    "fuses a subset": Bug(
        "Every node leaves the last update of the plan out, all alike.",
        planted.WRONG["fuses a subset"],
        (SEEDS,),
    ),
    "next round too early": Bug(
        "The next round opens as soon as one member has reported.",
        planted.WRONG["opens the next round before the last is complete"],
        (SEEDS,),
    ),
    "counts a node twice": Bug(
        "A node that repeats its announce stands in the plan twice.",
        planted.WRONG["counts a node twice after a repeated announce"],
        ("tests/coordinator/rounds/test_rules.py::test_rule_3_one_update_per_node_and_round",),
    ),
}
