"""NumPy arrays to torch tensors and back, bit for bit, bfloat16 included."""

from __future__ import annotations

import numpy as np
import torch

from parity.convert.bfloat import bfloat16
from parity.convert.units import Array


def to_tensor(array: Array) -> torch.Tensor:
    """A copy with the same bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(array).view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def to_array(tensor: torch.Tensor) -> Array:
    """A copy with the same bits, in C order; raises UserError where NumPy lacks bfloat16."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().copy().view(bfloat16())
    return np.array(tensor.numpy(), order="C")
