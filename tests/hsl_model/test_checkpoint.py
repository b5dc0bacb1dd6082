import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hsl_model.checkpoint import (
    TensorFile,
    TensorFileWriter,
    TensorsDigest,
    check_finite,
    check_specs,
    read_tensors,
    sha256_file,
    spec_of,
    tensors_digest,
    write_tensors,
)
from hsl_model.protocol.errors import CheckpointError
from hsl_model.tensor_header import MAX_HEADER_BYTES

Array = np.ndarray[Any, Any]

TENSORS: Mapping[str, Array] = {
    "bn.num_batches_tracked": np.array(7, np.int64),
    "bn.weight": np.array([1.0, -0.0, 3.5], np.float32),
    "head.half": np.array([[0.5, -2.0]], np.float16),
    "mask": np.array([0, 255, 1], np.uint8),
    "none": np.zeros((0, 3), np.float32),
    "wide": np.arange(6, dtype=np.float64).reshape(2, 3),
}


def raw_file(path: Path, header: object, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin: int, end: int, shape: tuple[int, ...], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    return caught.value.sentence()


def test_what_was_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    facts = write_tensors(tmp_path / "a", TENSORS)
    found = read_tensors(tmp_path / "a")
    assert list(found) == sorted(TENSORS)
    for name, values in TENSORS.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()
    assert facts.sha256 == sha256_file(tmp_path / "a")
    assert facts.num_bytes == (tmp_path / "a").stat().st_size


def test_the_safetensors_library_reads_our_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    for found in (
        safetensors.numpy.load_file(tmp_path / "a"),
        {name: value.numpy() for name, value in safetensors.torch.load_file(tmp_path / "a").items()},
    ):
        assert {name: value.tobytes() for name, value in found.items()} == {
            name: value.tobytes() for name, value in TENSORS.items()
        }


def test_our_files_are_those_of_the_library_byte_for_byte(tmp_path: Path) -> None:
    tensors = {name: values for name, values in TENSORS.items() if name != "wide"}  # it sorts F64 and I64 its own way
    write_tensors(tmp_path / "a", tensors)
    assert (tmp_path / "a").read_bytes() == safetensors.numpy.save(tensors)


def test_we_read_files_of_the_safetensors_library_metadata_and_all(tmp_path: Path) -> None:
    safetensors.numpy.save_file(dict(TENSORS), tmp_path / "a", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "a")
    assert tensors_digest(found.items()) == tensors_digest(TENSORS.items())


def test_equal_tensors_give_equal_files_and_digests_whatever_their_order(tmp_path: Path) -> None:
    first = write_tensors(tmp_path / "a", TENSORS)
    second = write_tensors(tmp_path / "b", dict(reversed(TENSORS.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first.sha256 == second.sha256 == tensors_digest(TENSORS.items())


def test_the_digest_speaks_of_values_not_of_the_layout_of_a_file(tmp_path: Path) -> None:
    backwards = raw_file(
        tmp_path / "a",
        {"__metadata__": {"by": "someone"}, "b": entry(0, 8, (2,)), "a": entry(8, 12, (1,))},
        np.array([1, 2, 3], np.float32).tobytes(),
    )
    ours = {"a": np.array([3], np.float32), "b": np.array([1, 2], np.float32)}
    assert tensors_digest(read_tensors(backwards).items()) == tensors_digest(ours.items())
    assert sha256_file(backwards) != tensors_digest(ours.items())


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.array([1, 2], np.float32)},
        {"a": np.array([1, 3], np.float32)},
        {"a": np.array([[1, 2]], np.float32)},
        {"a": np.array([1, 2], np.float32), "b": np.zeros(0, np.float32)},
        {"a": np.array([1, 2], np.float32).view(np.int32)},
        {"a": np.array([1, 2], np.float64)},
    ],
)
def test_the_digest_changes_with_name_value_shape_and_type(other: dict[str, Array]) -> None:
    assert tensors_digest(other.items()) != tensors_digest([("a", np.array([1, 2], np.float32))])


def test_big_endian_and_strided_arrays_are_written_by_value(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = write_tensors(tmp_path / "a", {"x": np.ascontiguousarray(values.T)}).sha256
    assert write_tensors(tmp_path / "b", {"x": values.T}).sha256 == expected
    assert write_tensors(tmp_path / "c", {"x": values.T.astype(">f4")}).sha256 == expected


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_.]{1,20}", fullmatch=True),
        npst.arrays(
            st.sampled_from([np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8]),
            npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=5,
    )
)
def test_any_tensors_survive_the_round_trip_and_suit_the_library(tmp_path: Path, tensors: dict[str, Array]) -> None:
    write_tensors(tmp_path / "a", tensors)
    expected = {name: (value.shape, value.dtype, value.tobytes()) for name, value in tensors.items()}
    for found in (read_tensors(tmp_path / "a"), safetensors.numpy.load_file(tmp_path / "a")):
        assert {name: (value.shape, value.dtype, value.tobytes()) for name, value in found.items()} == expected


# --- what is refused -------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    whole = (tmp_path / "a").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a").write_bytes(whole[:length])
        refusal(tmp_path / "a")
    (tmp_path / "a").write_bytes(whole + b"\0")
    assert "its header describes" in refusal(tmp_path / "a")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_byte_does_more_than_a_refusal(tmp_path: Path, data: st.DataObject) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    raw = bytearray((tmp_path / "a").read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(raw)
    with suppress(CheckpointError):
        read_tensors(tmp_path / "a")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__", "F32"]), inner, max_size=4
            )
        ),
    )
)
def test_no_header_does_more_than_a_refusal(tmp_path: Path, header: object) -> None:
    raw_file(tmp_path / "a", header, b"\0" * 8)
    with suppress(CheckpointError):
        read_tensors(tmp_path / "a")


def test_a_pickle_in_disguise_is_refused_and_not_run(tmp_path: Path) -> None:
    bomb = b"\x80\x04cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    (tmp_path / "a.safetensors").write_bytes(bomb)
    assert "pickle" in refusal(tmp_path / "a.safetensors")
    with zipfile.ZipFile(tmp_path / "b.safetensors", "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
    assert "pickle" in refusal(tmp_path / "b.safetensors")
    assert not (tmp_path / "ran").exists()


def test_a_forged_header_length_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
    os.truncate(path, MAX_HEADER_BYTES * 4)  # sparse: the file is long enough for what it claims
    assert "at most" in refusal(path)
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    assert "no safetensors file" in refusal(path)


@pytest.mark.parametrize(
    ("header", "num_bytes", "reason"),
    [
        ({"a": entry(0, 8, (2,)), "b": entry(4, 12, (2,))}, 12, "overlaps"),
        ({"a": entry(0, 4, (1,)), "b": entry(8, 12, (1,))}, 12, "hole"),
        ({"a": entry(4, 8, (1,))}, 8, "hole"),
        ({"a": entry(0, 4, (1,))}, 12, "its header describes"),
        ({"a": entry(0, 4, (2,))}, 4, "do not fit"),
        ({"a": entry(8, 4, (1,))}, 8, "do not fit"),
        ({"a": entry(-4, 0, (1,))}, 0, "do not fit"),
        ({"a": {**entry(0, 4, (1,)), "data_offsets": [0, 4.0]}}, 4, "not two integers"),
        ({"a": {**entry(0, 4, (1,)), "data_offsets": [False, 4]}}, 4, "not two integers"),
        ({"a": {**entry(0, 4, (1,)), "data_offsets": [0]}}, 4, "not two integers"),
        ({"a": {**entry(0, 4, (1,)), "more": 1}}, 4, "is not dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1]}}, 4, "is not dtype, shape and data_offsets"),
        ({"a": 3}, 4, "is not dtype, shape and data_offsets"),
        ({"a": entry(0, 4, (-1, -1))}, 4, "shape"),
        ({"a": {**entry(0, 4, (1,)), "shape": ["1"]}}, 4, "shape"),
        ({"a": {**entry(0, 4, (1,)), "shape": 1}}, 4, "shape"),
        ({"a": entry(0, 4, (1,) * 9)}, 4, "shape"),
        ({"a": entry(0, 4, (1,), "BF16")}, 4, "not exchanged"),
        ({"a": entry(0, 8, (1,), "C64")}, 8, "dtype"),
        ({"a": {**entry(0, 4, (1,)), "dtype": 32}}, 4, "dtype"),
        ({"../../etc/passwd": entry(0, 4, (1,))}, 4, "name"),
        ({"": entry(0, 4, (1,))}, 4, "name"),
        ({"a\n": entry(0, 4, (1,))}, 4, "name"),
        ([1], 0, "no JSON object"),
        (b'{"a":1,"a":2}', 0, "not acceptable JSON"),
        (b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4, "not acceptable JSON"),
        (b"\xff\xfe{}", 0, "not acceptable JSON"),
        (b"[" * 200_000, 0, "not acceptable JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", 0, "not acceptable JSON"),
        (b"", 0, "not acceptable JSON"),
        ({f"t{index}": entry(0, 0, (0,)) for index in range(5001)}, 0, "at most 5000"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(
    tmp_path: Path, header: object, num_bytes: int, reason: str
) -> None:
    assert reason in refusal(raw_file(tmp_path / "a", header, b"\0" * num_bytes))


def test_a_shape_that_would_fill_the_memory_is_refused_before_allocation(tmp_path: Path) -> None:
    header = {"a": entry(0, 4, (1 << 40, 1 << 40))}
    assert "do not fit" in refusal(raw_file(tmp_path / "a", header, b"\0" * 4))


def test_a_file_cut_while_it_is_read_is_an_error_not_a_crash(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", {"x": np.zeros(1000, np.float32)})
    with TensorFile(tmp_path / "a") as file:
        os.truncate(tmp_path / "a", 500)
        with pytest.raises(CheckpointError, match="ends inside tensor x"):
            file.read("x")


def test_check_finite_names_the_tensor(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", TENSORS)
    check_finite(tmp_path / "a")
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in (np.float16, np.float32, np.float64):
            write_tensors(tmp_path / "a", {**TENSORS, "worse": np.array([1.0, bad], dtype)})
            with pytest.raises(CheckpointError, match="tensor worse holds NaN or infinity"):
                check_finite(tmp_path / "a")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"a": np.zeros(2, np.float32)}, "tensor b is missing"),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(1), "c": np.zeros(1)}, "tensor c does not belong"),
        ({"a": np.zeros((2, 1), np.float32), "b": np.zeros(1)}, r"tensor a has shape \(2, 1\), expected \(2,\)"),
        ({"a": np.zeros(2, np.float64), "b": np.zeros(1)}, "tensor a has type F64, expected F32"),
    ],
)
def test_check_specs_names_the_offending_tensor(found: dict[str, Array], reason: str) -> None:
    expected = [spec_of("a", np.zeros(2, np.float32)), spec_of("b", np.zeros(1))]
    check_specs(list(reversed(expected)), expected, Path("f"))
    with pytest.raises(CheckpointError, match=reason):
        check_specs([spec_of(name, values) for name, values in found.items()], expected, Path("f"))


@pytest.mark.parametrize("values", [np.zeros(1, np.complex64), np.zeros(1, bool), np.zeros(1, np.uint16)])
def test_types_that_are_not_exchanged_are_not_written(tmp_path: Path, values: Array) -> None:
    with pytest.raises(CheckpointError, match="not exchanged"):
        write_tensors(tmp_path / "a", {"x": values})
    assert not list(tmp_path.iterdir())


# --- the streaming writer --------------------------------------------------------------------------------------------


def test_pieces_give_the_same_file_as_whole_tensors(tmp_path: Path) -> None:
    expected = write_tensors(tmp_path / "a", TENSORS)
    with TensorFileWriter(tmp_path / "b", [spec_of(name, values) for name, values in TENSORS.items()]) as writer:
        for spec in writer.specs:
            for value in TENSORS[spec.name].reshape(-1):
                writer.write(spec.name, np.array(value))
        facts = writer.finish()
    assert (facts.sha256, facts.num_bytes) == (expected.sha256, expected.num_bytes)
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_an_unfinished_file_never_gets_its_name(tmp_path: Path) -> None:
    with TensorFileWriter(tmp_path / "a", [spec_of("x", np.zeros(2))]) as writer:
        writer.write("x", np.zeros(1))
        with pytest.raises(ValueError, match="incomplete"):
            writer.finish()
    assert not list(tmp_path.iterdir())


def test_the_writer_takes_nothing_out_of_order_too_long_or_of_another_type() -> None:
    specs = [spec_of("a", np.zeros(2)), spec_of("b", np.zeros(2))]
    for name, values in [("b", np.zeros(2)), ("c", np.zeros(2)), ("a", np.zeros(3)), ("a", np.zeros(2, np.float32))]:
        with pytest.raises(ValueError, match="due"):
            TensorsDigest(specs).update(name, values)
    digest = TensorsDigest(specs)
    digest.update("a", np.zeros(1))
    with pytest.raises(ValueError, match="due"):
        digest.update("b", np.zeros(2))
