"""Choose the device and the type of the computation."""

import torch

from ditf.errors import UserError


def choose(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Return the torch device and dtype for this machine.

    Args:
        device: "auto", "cpu" or "cuda". "auto" is the GPU if there is one, otherwise the CPU.
        dtype: "auto", "float32" or "bfloat16". "auto" is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        UserError: There is no GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: this machine has no CUDA device. Use auto or cpu.")
    if dtype == "auto":
        return device, torch.bfloat16 if device == "cuda" else torch.float32
    return device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
