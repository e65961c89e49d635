"""torch's precision switches, old and new: pinned while we compute, and put back as the user had them."""

from typing import Any

import pytest
import torch

from parity.verification.adapters import torch as adapter
from parity.verification.place import Place
from torch_models.precision import pinned

BACKENDS: Any = torch.backends
PRODUCTS, CUDNN, CPU = BACKENDS.cuda.matmul, BACKENDS.cudnn, BACKENDS.mkldnn
NEWER = (PRODUCTS, CUDNN.conv, CUDNN.rnn, CPU.matmul, CPU.conv, CPU.rnn)


def state():
    try:
        older = PRODUCTS.allow_tf32, CUDNN.allow_tf32
    except RuntimeError:
        older = None
    return [x.fp32_precision for x in NEWER], older, CUDNN.benchmark


@pytest.fixture(autouse=True)
def put_back():
    before = [x.fp32_precision for x in NEWER]
    yield
    PRODUCTS.allow_tf32, CUDNN.allow_tf32 = False, True
    for switch, value in zip(NEWER, before, strict=True):
        switch.fp32_precision = value


USERS = {
    "nothing": lambda: None,
    "older": lambda: setattr(PRODUCTS, "allow_tf32", True),
    "newer": lambda: setattr(CUDNN.conv, "fp32_precision", "ieee"),
    "mixed": lambda: setattr(PRODUCTS, "fp32_precision", "tf32"),
    "bfloat16 on a CPU": lambda: torch.set_float32_matmul_precision("medium"),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(
    "scope", [pinned, lambda tf32: adapter.precision(Place("tf32" if tf32 else "float32"))]
)
def test_pinned_and_put_back(user, tf32, scope):
    USERS[user]()
    before = state()
    with scope(tf32):
        (products, conv, rnn, *cpu), older, _ = state()
        assert products == conv == rnn == ("tf32" if tf32 else "ieee")
        assert cpu == ["ieee"] * 3
        assert older == (tf32, tf32)
    after = state()
    assert (after[0], after[2]) == (before[0], before[2])
    assert before[1] in (None, after[1])
