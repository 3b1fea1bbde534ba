"""Where and in what the model runs."""

import torch

from ditf.errors import UserError


def choose(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """The torch device and dtype that `device` and `dtype` name, where this is called.

    "auto" is the GPU where there is one, and bfloat16 there; else the CPU and float32.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: no CUDA device here; use `auto` or `cpu`")
    if dtype == "auto":
        return device, torch.bfloat16 if device == "cuda" else torch.float32
    return device, {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
