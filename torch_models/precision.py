"""How precisely, and how repeatably, a GPU computes: torch's defaults differ, so each is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def pinned(tf32: bool, search: bool = True) -> Iterator[None]:
    """TF32 only where asked for, in products and convolutions alike, and bfloat16 products summed in float32
    throughout: by default torch lets cuBLAS round partial sums of them to bfloat16. `search`: convolutions by
    the fastest algorithm here, as XLA takes it, unless runs must repeat. Scoped to our calls.

    Where the older switches, `allow_tf32`, and the newer, `fp32_precision`, disagree, reading the older
    raises RuntimeError, so both are set. On a CPU the newer, too, may cut float32, to bfloat16.
    """
    backends: Any = torch.backends
    products, cudnn, cpu = backends.cuda.matmul, backends.cudnn, backends.mkldnn
    on_cpu = cpu.matmul, cpu.conv, cpu.rnn
    newer = [(switch, switch.fp32_precision) for switch in (products, cudnn.conv, cudnn.rnn, *on_cpu)]
    try:
        older = products.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        older = None
    others = products.allow_bf16_reduced_precision_reduction, cudnn.benchmark
    try:
        products.allow_tf32 = cudnn.allow_tf32 = tf32
        for switch, _ in newer:
            switch.fp32_precision = "tf32" if tf32 and switch not in on_cpu else "ieee"
        products.allow_bf16_reduced_precision_reduction = False
        cudnn.benchmark = search and not cudnn.deterministic
        yield
    finally:
        if older is not None:
            products.allow_tf32, cudnn.allow_tf32 = older
        for switch, value in newer:
            switch.fp32_precision = value
        products.allow_bf16_reduced_precision_reduction, cudnn.benchmark = others


def make_deterministic() -> None:
    """Only algorithms that repeat bit for bit, for the rest of this process; others raise RuntimeError.

    cuBLAS reads its workspace's setting when CUDA starts, so this comes before the first CUDA call.
    """
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True  # convolutions
    torch.backends.cudnn.benchmark = False  # which algorithm is not to depend on what was fastest today
