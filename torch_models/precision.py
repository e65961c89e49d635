"""How precisely a GPU takes products: torch's defaults differ between operations, so each is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
