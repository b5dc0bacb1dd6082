"""One transaction a request: durable before the reply, gone with an error, told to those who wait."""

from typing import Any

from sqlalchemy import select

from coordinator.kit.requests import REQUEST_ID_HEADER
from coordinator.tables import EventRow
from tests.coordinator.helpers import Alliance


def kinds(alliance: Alliance) -> list[str]:
    with alliance.kernel.snapshot() as session:
        return list(session.scalars(select(EventRow.kind)))


def test_what_was_answered_is_committed(probed: Alliance) -> None:
    """Looked at in the very moment the reply leaves, not when the request is over."""
    seen: list[list[str]] = []
    served: Any = probed.http._transport
    app = served.app

    async def spied(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                seen.append(kinds(probed))
            await send(message)

        await app(scope, receive, sending)

    served.app = spied
    assert probed.admin.post("/probe/write/test.written").status_code == 200
    assert seen == [["test.written"]]
    assert probed.kernel.notifier.generation == 1


def test_an_error_leaves_nothing_and_wakes_nobody(probed: Alliance) -> None:
    assert probed.admin.post("/probe/write/test.written?fail=true").status_code == 409
    assert kinds(probed) == []
    assert probed.kernel.notifier.generation == 0


def test_a_request_has_one_session(probed: Alliance) -> None:
    assert probed.admin.post("/probe/twice").json() is True


def test_a_request_id_comes_back_and_only_a_harmless_one_is_taken(probed: Alliance) -> None:
    assert probed.admin.post("/probe/admin", **{REQUEST_ID_HEADER: "from-a-node.7"}).headers[REQUEST_ID_HEADER] == (
        "from-a-node.7"
    )
    assert probed.admin.post("/probe/admin", **{REQUEST_ID_HEADER: 'x"y'}).headers[REQUEST_ID_HEADER] != 'x"y'
