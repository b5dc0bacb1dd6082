"""Whether this machine has the device a person asked for."""

from hsl_cli.errors import BadInputError


def check_device(device: str) -> None:
    """Torch is asked only about a GPU; for the CPU nothing heavy is imported."""
    if device not in ("cpu", "cuda"):
        raise BadInputError(reason=f"--device {device}: choose one of cpu, cuda.")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise BadInputError(reason="--device cuda: torch finds no usable GPU on this machine; use --device cpu.")
