import itertools
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hsl_model.averaging import FusedFacts, FusionError, FusionInput, fuse, inputs_digest
from hsl_model.checkpoint import read_tensors, sha256_file, spec_of, tensors_digest, write_tensors
from hsl_model.protocol.errors import CheckpointError
from hsl_model.protocol.messages import PlanEntry

Array = np.ndarray[Any, Any]
NODES = ("alpha", "beta", "gamma", "delta")
on_files = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
finite32 = npst.arrays(
    np.float32, st.integers(1, 6), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
)


def write_inputs(
    folder: Path, models: Sequence[Mapping[str, Array]], weights: Sequence[float] | None = None
) -> list[FusionInput]:
    inputs = []
    for index, model in enumerate(models):
        path = folder / f"{index}.safetensors"
        write_tensors(path, model)
        weight = 1 / len(models) if weights is None else weights[index]
        inputs.append(FusionInput(NODES[index], path, weight))
    return inputs


def fused(folder: Path, inputs: Sequence[FusionInput]) -> dict[str, Array]:
    fuse(inputs, folder / "fused.safetensors")
    return read_tensors(folder / "fused.safetensors")


@on_files
@given(models=st.integers(1, 6).flatmap(lambda n: st.lists(st.just(n), min_size=2, max_size=4)), data=st.data())
def test_the_order_of_arrival_changes_no_bit(tmp_path: Path, models: list[int], data: st.DataObject) -> None:
    elements = st.floats(-(2.0**100), 2.0**100, width=32)
    tensors = [{"x": data.draw(npst.arrays(np.float32, models[0], elements=elements))} for _ in models]
    weights = data.draw(st.lists(st.floats(0, 1), min_size=len(models), max_size=len(models)))
    inputs = write_inputs(tmp_path, tensors, weights)
    found: set[FusedFacts] = set()
    for order in itertools.permutations(inputs):
        found.add(fuse(order, tmp_path / "fused"))
    assert len(found) == 1


def test_where_the_order_of_the_sum_matters_it_is_that_of_the_nodes(tmp_path: Path) -> None:
    """(2^60 + 1) - 2^60 is 0 in float64, where 2^60 swallows the 1, and (2^60 - 2^60) + 1 is 1."""
    models = [{"x": np.array([value], np.float32)} for value in (2.0**60, 1.0, -(2.0**60))]  # alpha, beta, gamma
    inputs = write_inputs(tmp_path, models, [1.0, 1.0, 1.0])
    assert {float(fused(tmp_path, order)["x"][0]) for order in itertools.permutations(inputs)} == {0.0}


@on_files
@given(values=finite32, copies=st.integers(1, 4))
def test_copies_of_one_model_fuse_to_that_model_bit_for_bit(tmp_path: Path, values: Array, copies: int) -> None:
    model = {"x": values, "n": np.array(5, np.int64)}
    found = fused(tmp_path, write_inputs(tmp_path, [model] * copies))
    assert found["x"].tobytes() == values.tobytes()
    assert found["n"].tobytes() == model["n"].tobytes()


@on_files
@given(data=st.data(), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_the_mean_is_that_of_the_written_rule(tmp_path: Path, data: st.DataObject, dtype: type) -> None:
    """Against plain Python floats (IEEE double, no contraction), term by term in sorted node order."""
    num_nodes = data.draw(st.integers(1, 4))
    elements = st.floats(-100, 100, width=16)
    models = [data.draw(npst.arrays(dtype, 3, elements=elements)) for _ in range(num_nodes)]
    weights = data.draw(st.lists(st.floats(0, 2), min_size=num_nodes, max_size=num_nodes))
    found = fused(tmp_path, write_inputs(tmp_path, [{"x": values} for values in models], weights))["x"]
    in_order = sorted(range(num_nodes), key=lambda index: NODES[index])
    for position in range(3):
        total = weights[in_order[0]] * float(models[in_order[0]][position])
        for index in in_order[1:]:
            total = total + weights[index] * float(models[index][position])
        assert found[position].tobytes() == np.array(total).astype(dtype).tobytes()


def test_a_weighted_mean_computed_by_hand(tmp_path: Path) -> None:
    models = [{"x": np.array([1.0, -8.0], np.float32)}, {"x": np.array([5.0, 8.0], np.float32)}]
    found = fused(tmp_path, write_inputs(tmp_path, models, [0.25, 0.75]))
    np.testing.assert_array_equal(found["x"], np.array([4.0, 4.0], np.float32))


def test_negative_zero_survives(tmp_path: Path) -> None:
    zeros = {"x": np.array([-0.0, -0.0, 0.0], np.float32)}
    found = fused(tmp_path, write_inputs(tmp_path, [zeros] * 3))
    np.testing.assert_array_equal(np.signbit(found["x"]), [True, True, False])


def test_the_sum_is_made_in_float64(tmp_path: Path) -> None:
    models = [{"x": np.array([value], np.float32)} for value in (1e8, 1.0, -1e8)]
    found = fused(tmp_path, write_inputs(tmp_path, models, [1.0, 1.0, 1.0]))
    assert found["x"][0] == 1.0  # float32 sums to 0


@on_files
@given(data=st.data(), dtype=st.sampled_from([np.int32, np.int64, np.uint8]))
def test_integers_take_the_maximum(tmp_path: Path, data: st.DataObject, dtype: type) -> None:
    models = [data.draw(npst.arrays(dtype, 4)) for _ in range(3)]
    found = fused(tmp_path, write_inputs(tmp_path, [{"n": values} for values in models]))["n"]
    assert found.dtype == dtype
    assert found.tolist() == [max(int(values[position]) for values in models) for position in range(4)]


def test_a_counter_of_batches_is_the_largest_and_stays_whole(tmp_path: Path) -> None:
    models = [{"n": np.array(count, np.int64)} for count in (5, 8, 2)]
    found = fused(tmp_path, write_inputs(tmp_path, models))["n"]
    assert (found.dtype, int(found)) == (np.int64, 8)


def test_tensors_of_many_pieces_scalars_and_empty_ones(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    models = [
        {
            "large": random.standard_normal((3, 100_003), dtype=np.float32),  # three pieces, the last one odd
            "scalar": np.array(random.standard_normal(), np.float32),
            "none": np.zeros((0, 2), np.float32),
        }
        for _ in range(3)
    ]
    found = fused(tmp_path, write_inputs(tmp_path, models))
    third = 1 / 3
    for name in models[0]:
        first, second, last = (models[index][name].astype(np.float64) for index in (0, 1, 2))
        expected = ((first * third + second * third) + last * third).astype(np.float32)  # alpha, beta, gamma
        np.testing.assert_array_equal(found[name], expected, strict=True)


def test_the_facts_are_those_of_the_file_and_its_values(tmp_path: Path) -> None:
    models = [{"x": np.array([1.0], np.float32), "n": np.array(3, np.int64)}, {"x": np.array([2.0], np.float32)}]
    models[1]["n"] = np.array(9, np.int64)
    facts = fuse(write_inputs(tmp_path, models), tmp_path / "fused")
    assert facts.file_sha256 == sha256_file(tmp_path / "fused")
    assert facts.fused_digest == tensors_digest(read_tensors(tmp_path / "fused").items())
    assert facts.num_bytes == (tmp_path / "fused").stat().st_size


def test_a_plan_of_one_is_the_identity_even_in_float64(tmp_path: Path) -> None:
    values = np.array([1 / 3, -0.0, 5e-324, 1.7976931348623157e308])
    found = fused(tmp_path, write_inputs(tmp_path, [{"x": values}], [1.0]))
    assert found["x"].tobytes() == values.tobytes()


# --- what is refused -------------------------------------------------------------------------------------------------

GOOD: Mapping[str, Array] = {"a": np.ones(2, np.float32), "b": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ({"a": GOOD["a"]}, "tensor b is missing"),
        ({**GOOD, "c": GOOD["a"]}, "tensor c does not belong there"),
        ({**GOOD, "b": np.ones((2, 1), np.float32)}, "tensor b has shape"),
        ({**GOOD, "b": np.ones((1, 2), np.float64)}, "tensor b has type F64"),
        ({**GOOD, "b": np.array([[1, np.nan]], np.float32)}, r"1\.safetensors .* tensor b holds NaN or infinity"),
        ({**GOOD, "a": np.array([np.inf, 1], np.float32)}, r"1\.safetensors .* tensor a holds NaN or infinity"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_nothing_is_left(
    tmp_path: Path, second: dict[str, Array], reason: str
) -> None:
    inputs = write_inputs(tmp_path, [GOOD, second])
    with pytest.raises(CheckpointError, match=reason):
        fuse(inputs, tmp_path / "fused")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.safetensors", "1.safetensors"]


def test_nan_is_found_even_at_weight_zero_and_opposite_infinities_do_not_hide(tmp_path: Path) -> None:
    bad = {"a": np.array([np.nan], np.float32)}
    with pytest.raises(CheckpointError, match=r"1\.safetensors"):
        fuse(write_inputs(tmp_path, [{"a": np.ones(1, np.float32)}, bad], [1.0, 0.0]), tmp_path / "fused")
    up, down = ({"a": np.array([sign * np.inf], np.float32)} for sign in (1, -1))
    with pytest.raises(CheckpointError, match=r"0\.safetensors"):
        fuse(write_inputs(tmp_path, [up, down]), tmp_path / "fused")


def test_an_overflow_by_the_weights_is_refused(tmp_path: Path) -> None:
    model = {"a": np.array([3e38], np.float32)}
    with pytest.raises(CheckpointError, match="tensor a overflows"):
        fuse(write_inputs(tmp_path, [model, model], [1.0, 1.0]), tmp_path / "fused")


def test_what_the_run_expects_decides(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, [GOOD])
    fuse(inputs, tmp_path / "fused", [spec_of(name, values) for name, values in GOOD.items()])
    with pytest.raises(CheckpointError, match="tensor b does not belong there"):
        fuse(inputs, tmp_path / "fused", [spec_of("a", GOOD["a"])])


def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    (one,) = write_inputs(tmp_path, [GOOD])
    for inputs, reason in [
        ([], "names no update"),
        ([one, one], "twice"),
        ([FusionInput("alpha", one.path, float("nan"))], "weight of alpha"),
        ([FusionInput("alpha", one.path, -0.5)], "weight of alpha"),
    ]:
        with pytest.raises(FusionError, match=reason):
            fuse(inputs, tmp_path / "fused")


def plan_entry(node_id: str, digit: str, weight: float) -> PlanEntry:
    return PlanEntry(
        node_id=node_id,
        update_sha256=digit * 64,
        update_bytes=1,
        manifest_sha256="0" * 64,
        weight=weight,
        num_cases=1,
    )


def test_the_inputs_digest_names_nodes_updates_and_weights_in_order() -> None:
    a, b = plan_entry("a", "1", 0.5), plan_entry("b", "2", 0.5)
    assert inputs_digest([a, b]) == inputs_digest([b, a])
    others = [[a], [a, plan_entry("b", "3", 0.5)], [a, plan_entry("b", "2", 0.4)], [a, plan_entry("c", "2", 0.5)]]
    assert len({inputs_digest(entries) for entries in [[a, b], *others]}) == 5


# --- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
    import sys
    from pathlib import Path
    from hsl_model.averaging import FusionInput, fuse

    def peak_bytes():
        fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024

    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    inputs = [FusionInput(f"node-{i}", folder / f"{i % 2}.safetensors", 1 / count) for i in range(count)]
    before = peak_bytes()
    fuse(inputs, folder / f"fused-{count}")
    print(peak_bytes() - before)
"""


def test_memory_does_not_grow_with_nodes_and_stays_far_below_one_model(tmp_path: Path) -> None:
    num_bytes = 64 << 20
    write_inputs(tmp_path, [{"x": np.full(num_bytes // 4, value, np.float32)} for value in (1, 2)])
    peaks = {
        count: int(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path), str(count)],
                capture_output=True,
                check=True,
            ).stdout
        )
        for count in (2, 32)
    }
    assert max(peaks.values()) < num_bytes / 4, peaks
    assert abs(peaks[32] - peaks[2]) < 4 << 20, peaks
