import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsl_model.protocol import paths
from hsl_model.protocol.errors import RemotePathError

SHA = "0123456789abcdef" * 4
node_ids = st.from_regex(paths.NODE_ID_PATTERN, fullmatch=True)
run_ids = st.from_regex(paths.RUN_ID_PATTERN, fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(node_ids, digests)
def test_tensor_paths_parse_back(node_id: str, sha256: str) -> None:
    assert paths.parse(paths.tensor_path(node_id, sha256)) == paths.TensorPath(node_id, sha256, is_part=False)
    assert paths.parse(paths.part_path(node_id, sha256)) == paths.TensorPath(node_id, sha256, is_part=True)


@given(node_ids, run_ids, st.integers(0, 999_999), digests)
def test_manifest_paths_parse_back(node_id: str, run_id: str, round_number: int, sha256: str) -> None:
    path = paths.manifest_path(node_id, run_id, round_number, sha256)
    assert paths.parse(path) == paths.ManifestPath(node_id, run_id, round_number, sha256)


@given(st.text(max_size=120))
def test_parse_accepts_only_what_it_would_build(path: str) -> None:
    try:
        parsed = paths.parse(path)
    except RemotePathError:
        return
    if isinstance(parsed, paths.TensorPath):
        build = paths.part_path if parsed.is_part else paths.tensor_path
        assert build(parsed.node_id, parsed.sha256) == path
    else:
        assert paths.manifest_path(parsed.node_id, parsed.run_id, parsed.round_number, parsed.sha256) == path


@pytest.mark.parametrize(
    "path",
    [
        f"/nodes/../{SHA}.safetensors",
        f"/nodes/a/../b/{SHA}.safetensors",
        f"/nodes/a//{SHA}.safetensors",
        f"nodes/a/{SHA}.safetensors",
        f"/nodes/a/{SHA}.safetensors/",
        f"/nodes/A/{SHA}.safetensors",
        f"/nodes/a/{SHA.upper()}.safetensors",
        f"/nodes/a/{SHA}.pkl",
        f"/nodes/a/{SHA}.safetensors\n",
        f"/nodes/a\x00/{SHA}.safetensors",
        f"/nodes/a/run-1.round-1.{SHA}.json",
        f"/nodes/a/run-1.round-00007.{SHA}.json",
        "/nodes/a/",
        "",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(RemotePathError):
        paths.parse(path)


@pytest.mark.parametrize("node_id", ["..", "a/b", "-a", "a-", "", "a" * 33, "ä"])
def test_hostile_node_ids_never_become_a_folder(node_id: str) -> None:
    with pytest.raises(RemotePathError):
        paths.node_folder(node_id)
