"""How precisely, and how repeatably, a GPU computes: torch's defaults differ, so each is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def pinned(tf32: bool) -> Iterator[None]:
    """TF32 only where asked for, in products and convolutions alike, and bfloat16 products summed in float32
    throughout: by default torch lets cuBLAS round partial sums of them to bfloat16. Scoped to our calls.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, products.allow_bf16_reduced_precision_reduction
    try:
        products.allow_tf32 = convolutions.allow_tf32 = tf32
        products.allow_bf16_reduced_precision_reduction = False
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32, products.allow_bf16_reduced_precision_reduction = before


def make_deterministic() -> None:
    """Only algorithms that repeat bit for bit, for the rest of this process; others raise RuntimeError.

    cuBLAS reads its workspace's setting when CUDA starts, so this comes before the first CUDA call.
    """
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True  # convolutions
    torch.backends.cudnn.benchmark = False  # which algorithm is not to depend on what was fastest today
