"""Whatever crosses a boundary as bytes: each parser raises its one documented error, or gives something it would write.

Nothing is allocated by what an input claims: `test_claims_allocate_nothing` measures the peak.
"""

import json
import tomllib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from hsl_cli.config_file import load_config, load_task
from hsl_cli.errors import BadInputError
from hsl_model.checkpoint import TensorFile
from hsl_model.protocol import paths
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import CheckpointError, HslError, ManifestError, RemotePathError
from hsl_model.protocol.manifest import SignedManifest, canonical_json, parse_signed, verify
from hsl_model.protocol.messages import DesiredState
from node_agent.coordinator_client import CoordinatorError, _parsed, _refusal
from tests.coordinator.rounds.sites import run_config
from tests.fuzz.conftest import counted, examples

FEW, MANY = 60, 5000
BOUND_BYTES = 8 << 20  # no parse of a small input may need more, whatever the input claims

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def mutated(seed: Any) -> st.SearchStrategy[Any]:
    """A valid JSON value with one or more of its parts replaced, doubled or taken away."""

    def change(value: Any, draw: Any) -> Any:
        where, node = [], value
        while isinstance(node, dict | list) and node and draw(st.booleans() | st.just(True)):
            key = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            where.append((node, key))
            node = node[key]
        if not where:
            return draw(JSON)
        parent, key = where[-1]
        if draw(st.booleans()):
            parent[key] = draw(JSON)
        elif isinstance(parent, dict):
            del parent[key]
        else:
            parent.append(parent[key])
        return value

    @st.composite
    def build(draw: Any) -> Any:
        value = json.loads(json.dumps(seed))
        for _ in range(draw(st.integers(1, 3))):
            value = change(value, draw)
        return value

    return build()


def said(error: HslError) -> None:
    """It can be shown."""
    assert error.sentence()


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


MANIFEST = {
    "manifest": {
        "protocol_version": 1, "run_id": "run-1", "round_number": 3, "node_id": "node-a", "update_sha256": "ab" * 32,
        "update_bytes": 1000, "tensors": [{"name": "weight", "dtype": "F32", "shape": [4, 3]}], "start_digest": None,
        "num_cases": 10, "metrics": {"validation_auc": 0.5, "shared_epoch": 1, "num_steps": 3}, "egress_head": None,
    },
    "signature": "QUJD",
}  # fmt: skip


def manifests(number: int) -> Callable[[], None]:
    canonical = SignedManifest.model_validate(MANIFEST).to_bytes()

    @examples(number)
    @given(
        st.binary(max_size=300)
        | mutated(MANIFEST).map(as_bytes)
        | st.integers(0, len(canonical)).map(lambda n: canonical[:n])
    )
    @example(b"[" * 100_000)
    @example(b'{"manifest":' * 20_000)
    def play(raw: bytes) -> None:
        counted("manifests")
        try:
            signed = parse_signed(raw)
        except ManifestError as error:
            said(error)
            return
        assert signed.to_bytes() == raw
        with pytest.raises(ManifestError):
            verify(signed, "A" * 43 + "=")

    return play


HEADER = {
    "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "counter": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
}


@st.composite
def tensor_files(draw: Any) -> bytes:
    header = draw(st.binary(max_size=200) | mutated(HEADER).map(as_bytes) | st.just(as_bytes(HEADER)))
    claimed = draw(st.just(len(header)) | st.integers(0, 2**64 - 1) | st.integers(0, 300))
    return claimed.to_bytes(8, "little") + header + b"\0" * draw(st.sampled_from((32, 0, 31, 64)))


def headers(number: int, folder: Path) -> Callable[[], None]:
    path = folder / "file.safetensors"

    @examples(number)
    @given(tensor_files() | st.binary(max_size=64))
    @example((100_000).to_bytes(8, "little") + b"[" * 100_000)
    @example(b"\xff" * 8 + b"{}")
    @example((60).to_bytes(8, "little") + b'{"a":{"dtype":"U8","shape":[9999999999],"data_offsets":[0,9999999999]}}')
    def play(raw: bytes) -> None:
        path.write_bytes(raw)
        counted("tensor files")
        try:
            with TensorFile(path) as file:
                file.check_finite()
                for spec in file.specs:
                    assert file.read(spec.name).nbytes <= len(raw)
        except CheckpointError as error:
            said(error)

    return play


NAMES = st.text(st.sampled_from("ab0-._/~%\x00A\n.."), max_size=40) | st.text(max_size=20)


def remote_paths(number: int) -> Callable[[], None]:
    @examples(number)
    @given(
        st.builds("/nodes/{}/{}".format, NAMES, NAMES)
        | st.text(max_size=60)
        | st.builds("/nodes/{}/{}.safetensors".format, NAMES, st.just("ab" * 32))
        | st.builds("/nodes/node-a/{}.round-{}.{}.json".format, NAMES, st.integers(-5, 10**9), st.just("ab" * 32))
    )
    @example("/nodes/node-a/" + "ab" * 32 + ".safetensors\n")
    def play(path: str) -> None:
        counted("remote paths")
        try:
            found = paths.parse(path)
        except RemotePathError as error:
            said(error)
            return
        if isinstance(found, paths.ManifestPath):
            assert paths.manifest_path(found.node_id, found.run_id, found.round_number, found.sha256) == path
        else:
            build = paths.part_path if found.is_part else paths.tensor_path
            assert build(found.node_id, found.sha256) == path

    return play


CONFIG = json.loads(run_config().model_dump_json())
TOML = 'name = "x"\nnodes = ["a"]\n[task]\ntask_id = "t"\n'


def config_files(number: int, folder: Path) -> Callable[[], None]:
    @examples(number)
    @given(
        st.sampled_from((".json", ".toml")),
        st.binary(max_size=200)
        | mutated(CONFIG).map(as_bytes)
        | st.text(max_size=100).map(lambda text: (TOML + text).encode()),
    )
    @example(".json", b"[" * 100_000)
    @example(".json", b'{"a":' * 100_000)
    @example(".toml", b"a = " + b"[" * 50_000)
    @example(".json", b"1" * 6000)
    @example(".toml", b"a = " + b"1" * 6000)
    def play(suffix: str, raw: bytes) -> None:
        path = folder / f"run{suffix}"
        path.write_bytes(raw)
        counted("configuration files")
        for load in (load_config, load_task):
            try:
                load(path)
            except BadInputError as error:
                said(error)

    return play


def run_configs(number: int) -> Callable[[], None]:
    @examples(number)
    @given(mutated(CONFIG) | JSON)
    def play(value: Any) -> None:
        counted("run configurations")
        try:
            config = RunConfig.model_validate_json(as_bytes(value))
        except ValidationError:
            return
        assert RunConfig.model_validate_json(canonical_json(config)) == config

    return play


DESIRED = json.loads(
    DesiredState.model_validate(
        {
            "version": "1",
            "invitations": [{"run_id": "run-1", "config": CONFIG}],
            "roster": [{"node_id": "node-a", "signing_public_key": "QQ"}],
            "publish": [{"run_id": "run-1", "file_sha256": "ab" * 32}],
            "assignment": {
                "run_id": "run-1", "run_status": "running", "config": CONFIG, "members": ["node-a"], "round_number": 1,
                "round_status": "fusing", "participation": "fusing",
                "plan": {
                    "run_id": "run-1", "round_number": 1, "version": 1,
                    "entries": [{"node_id": "node-a", "update_sha256": "ab" * 32, "update_bytes": 5,
                                 "manifest_sha256": "ab" * 32, "weight": 1.0, "num_cases": 3}],
                },
            },
        }
    ).model_dump_json()
)  # fmt: skip


def answers(number: int) -> Callable[[], None]:
    """What a coordinator, or whatever stands between, may answer to a node's poll."""
    import httpx

    @examples(number)
    @given(
        st.sampled_from((200, 204, 301, 404, 409, 426, 500, 503)),
        st.binary(max_size=200) | mutated(DESIRED).map(as_bytes) | JSON.map(as_bytes),
    )
    @example(200, b"[" * 100_000)
    @example(500, b'{"data":' * 20_000)
    def play(status: int, raw: bytes) -> None:
        counted("answers to a node")
        reply = httpx.Response(status, content=raw)
        try:
            if not reply.is_success:
                raise _refusal(reply)
            state = _parsed(reply, DesiredState)
        except CoordinatorError as error:
            said(error)
            return
        assert DesiredState.model_validate_json(state.model_dump_json()) == state

    return play


KINDS: dict[str, Callable[[int, Path], Callable[[], None]]] = {
    "manifests": lambda number, _: manifests(number),
    "tensor files": headers,
    "remote paths": lambda number, _: remote_paths(number),
    "configuration files": config_files,
    "run configurations": lambda number, _: run_configs(number),
    "answers to a node": lambda number, _: answers(number),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_documented_errors(kind: str, tmp_path: Path) -> None:
    KINDS[kind](FEW, tmp_path)()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_only_documented_errors_of_many(kind: str, tmp_path: Path) -> None:
    KINDS[kind](MANY, tmp_path)()


FORGED = {
    "header of 2^64 bytes": b"\xff" * 8 + b"{}",
    "header of a gigabyte": (1 << 30).to_bytes(8, "little") + b"{}",
    "tensor of ten gigabytes": b'{"a":{"dtype":"U8","shape":[10000000000],"data_offsets":[0,10000000000]}}',
    "shape of many dimensions": b'{"a":{"dtype":"F64","shape":[65536,65536,65536],"data_offsets":[0,8]}}',
    "shape of one huge number": b'{"a":{"dtype":"F64","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,8]}}',
}


@pytest.mark.parametrize("name", FORGED)
def test_claims_allocate_nothing(name: str, tmp_path: Path) -> None:
    path, raw = tmp_path / "forged.safetensors", FORGED[name]
    path.write_bytes(raw if name.startswith("header") else len(raw).to_bytes(8, "little") + raw)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError), TensorFile(path):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOUND_BYTES, f"{peak} bytes for a small input"
    counted("forged claims")


def test_the_seeds_are_valid(tmp_path: Path) -> None:
    """Mutations of something that is refused anyway would reach nothing."""
    assert SignedManifest.model_validate(MANIFEST)
    path = tmp_path / "file.safetensors"
    header = as_bytes(HEADER)
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 32)
    with TensorFile(path) as file:
        assert len(file.specs) == 2
    assert tomllib.loads(TOML)
    assert RunConfig.model_validate(CONFIG)
    assert DesiredState.model_validate(DESIRED)
