"""The small rules: where a transfer goes on, and whose paths may be written."""

import pytest

from hsl_model.protocol.errors import RemotePathError
from node_agent.exchange.base import download_offset, known_paths, own_manifest_path, own_path, upload_offset
from tests.node_agent.exchange.helpers import MIB

SHA = "ab" * 32


@pytest.mark.parametrize(
    ("size", "total", "upload", "download"),
    [
        (0, 0, 0, 0),
        (0, 5 * MIB, 0, 0),
        (1, 5 * MIB, 0, 0),
        (MIB - 1, 5 * MIB, 0, 0),
        (MIB, 5 * MIB, 0, MIB),
        (MIB + 1, 5 * MIB, 1, MIB),
        (3 * MIB + 7, 5 * MIB, 2 * MIB + 7, 3 * MIB),
        (5 * MIB, 5 * MIB, 4 * MIB, 5 * MIB),  # complete, but cut before it got its name
        (5 * MIB + 1, 5 * MIB, 0, 0),  # not ours
        (1, 0, 0, 0),
    ],
)
def test_where_a_transfer_goes_on(size: int, total: int, upload: int, download: int) -> None:
    assert upload_offset(size, total) == upload
    assert download_offset(size, total) == download


def test_only_own_paths_of_the_layout_are_written() -> None:
    path = f"/nodes/me/{SHA}.safetensors"
    assert own_path(path, "me").node_id == "me"
    for wrong in (path.replace("me", "other"), "/nodes/me", f"/nodes/me/../me/{SHA}.part", "x"):
        with pytest.raises(RemotePathError):
            own_path(wrong, "me")
    with pytest.raises(RemotePathError, match="manifest"):
        own_manifest_path(path, "me")


def test_a_hub_cannot_make_a_node_handle_strange_names() -> None:
    names = [f"{SHA}.part", "..", ".", "", "a/b", f"../x/{SHA}.part", f"{SHA}.part\n", f"run-1.round-0001.{SHA}.json"]
    assert known_paths("me", names) == (f"/nodes/me/{SHA}.part", f"/nodes/me/run-1.round-0001.{SHA}.json")
