from pathlib import Path

import numpy as np

from hsl_model.checkpoint import read_tensors, write_tensors


def test_no_header_length_is_taken_for_a_pickle(tmp_path: Path) -> None:
    """0x0280, 0x0380, 0x0480 and 0x0580 begin, in little-endian, like the pickle protocols 2 to 5."""
    lengths = set()
    for name_length in range(1, 199):
        tensors = {f"{i}.{'n' * name_length}": np.ones(1, dtype=np.float32) for i in range(6)}
        path = write_tensors(tmp_path / "any.safetensors", tensors).path
        lengths.add(int.from_bytes(path.read_bytes()[:8], "little"))
        assert read_tensors(path).keys() == tensors.keys()
    assert lengths >= {0x0280, 0x0380, 0x0480, 0x0580}
