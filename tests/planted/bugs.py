"""The table of planted bugs: the mistake, the functions it replaces, the tests that must go red. One entry a bug."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.planted.plant import Bug, Make


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
}
