"""Pages cover a list exactly once, whatever their size."""

import pytest

from coordinator.kit.paging import MAX_LIMIT
from hsl_model.protocol.transport import API
from tests.coordinator.helpers import Alliance


@pytest.mark.parametrize("limit", [3, 7])
def test_pages_cover_the_list_once(alliance: Alliance, limit: int) -> None:
    names = [f"node-{n}" for n in range(7)]
    for name in names:
        alliance.add(name)
    found: list[str] = []
    while True:
        page = alliance.admin.get(f"{API}/nodes", offset=len(found), limit=limit).json()
        assert (page["total"], page["limit"], page["offset"]) == (7, limit, len(found))
        if not page["items"]:
            break
        assert len(page["items"]) <= limit
        found += [item["node_id"] for item in page["items"]]
    assert found == names


def test_nobody_gets_a_whole_table(alliance: Alliance) -> None:
    assert alliance.admin.get(f"{API}/nodes", limit=MAX_LIMIT).status_code == 200
    for wrong in ({"limit": MAX_LIMIT + 1}, {"limit": 0}, {"offset": -1}, {"offset": 2**40}):
        assert alliance.admin.get(f"{API}/nodes", **wrong).status_code == 422
