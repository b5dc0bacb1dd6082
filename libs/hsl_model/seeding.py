"""Random streams keyed by what they are for: (run seed, node, round, step, purpose).

Nothing depends on how much randomness was drawn before. So a resumed round needs no generator state, and two methods
with the same seed draw the same batches whatever else they do.
"""

import hashlib
import json

import numpy as np
import torch

Key = str | int


def stream_seed(*key: Key) -> int:
    """63 bits of the SHA-256 of the key. The JSON form keeps ("a", 1), ("a1",) and ("a", "1") apart."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: Key) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream_seed(*key)))


def torch_generator(*key: Key, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device=device).manual_seed(stream_seed(*key))
