"""Attention and position: scale, masks, the order of heads, rotations, sinusoids."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from evidence.real_bugs.bug import Bug
from parity import Torch

QKV: dict[str, Any] = {"q": (2, 4, 8), "k": (2, 4, 8), "v": (2, 4, 8)}
HEADS: dict[str, Any] = {"q": (2, 2, 4, 3), "k": (2, 2, 4, 3), "v": (2, 2, 4, 3)}
SCALE = 8**-0.5
AFTER = torch.ones(4, 4, dtype=torch.bool).triu(1)
"""True at the keys that come after the query."""


def attention(
    scale: float = SCALE,
    axis: int = -1,
    hidden: Tensor | None = None,
    value: float = -math.inf,
    after: float = 1.0,
) -> Torch:
    """Softmax over `axis`. Scores of `hidden` keys become `value`; `after` multiplies the weights."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * scale
        if hidden is not None:
            scores = scores.masked_fill(hidden, value)
        return scores.softmax(axis) * after @ v

    return Torch(function)


def masked_by_numbers(mask: Tensor) -> Torch:
    """1 keeps a key, 0 hides it."""
    return Torch(
        lambda q, k, v: (q @ k.mT * SCALE + (1 - mask.to(q)).nan_to_num(neginf=-1e9) * -1e9).softmax(-1) @ v
    )


def padded_attention(fully_masked_is_zero: bool) -> Torch:
    """The first query sees no key."""
    sees = torch.tensor([[False] * 4, [True, True, False, False], [True] * 4, [False, True, True, True]])

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT * SCALE).masked_fill(~sees, -math.inf)
        if not fully_masked_is_zero:
            return scores.softmax(-1) @ v
        safe = torch.where(sees.any(-1, keepdim=True), scores, torch.zeros_like(scores))
        return torch.where(sees, safe.softmax(-1), torch.zeros_like(scores)) @ v

    return Torch(function)


def sdpa(fused: bool = False, **settings: Any) -> Torch:
    """torch's own; its plain form, unless it may take the fused kernel."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with nullcontext() if fused else sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, **settings)

    return Torch(function)


def fused(interleaved: bool) -> Torch:
    """(batch, time, 3 * heads * size): all queries first, or query, key and value of each head in turn."""

    def function(qkv: Tensor) -> Tensor:
        n, t, _ = qkv.shape
        order = (2, 0, 3, 1, 4) if not interleaved else (3, 0, 2, 1, 4)
        shape = (n, t, 3, 2, 4) if not interleaved else (n, t, 2, 3, 4)
        q, k, v = qkv.reshape(shape).permute(order)
        return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(n, t, 8)

    return Torch(function)


def split_heads(transposed: bool) -> Torch:
    """(batch, time, heads * size) to (batch, heads, time, size)."""

    def heads(x: Tensor) -> Tensor:
        return x.reshape(2, 4, 2, 4).transpose(1, 2) if transposed else x.reshape(2, 2, 4, 4)

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).reshape(2, 4, 8)

    return Torch(function)


def merge_heads(transposed: bool) -> Torch:
    """(batch, heads, time, size) back to (batch, time, heads * size)."""
    return Torch(lambda x: (x.transpose(1, 2) if transposed else x).reshape(x.shape[0], 4, 6))


def projected_heads(first: bool) -> Torch:
    """One projection of everything, then heads; or heads, each projected by the same small matrix."""

    def function(x: Tensor, weight: Tensor) -> Tensor:
        n, t, _ = x.shape
        if first:
            return (x @ weight).reshape(n, t, 2, 4).transpose(1, 2)
        return x.reshape(n, t, 2, 4).transpose(1, 2) @ weight[:4, :4]

    return Torch(function)


def grouped(repeat: Any) -> Torch:
    """4 query heads, 2 heads of keys and values."""

    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = repeat(k), repeat(v)
        return (q @ k.mT / 2).softmax(-1) @ v

    return Torch(function)


def angles(size: int, times: int = 5) -> np.ndarray:
    return np.arange(times)[:, None] * 100.0 ** (-np.arange(size // 2) / (size // 2))


def rotary(pairs: str, table: str) -> Torch:
    """Channels turned in pairs: (0, 1), (2, 3), ... ("neighbours") or (0, n/2), (1, n/2 + 1), ..."""

    def spread(half: np.ndarray) -> Tensor:
        both = np.repeat(half, 2, -1) if table == "neighbours" else np.concatenate([half, half], -1)
        return torch.from_numpy(both)

    cos, sin = (spread(f(angles(8))) for f in (np.cos, np.sin))

    def turned(x: Tensor) -> Tensor:
        if pairs == "neighbours":
            return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        first, second = x.chunk(2, -1)
        return torch.cat([-second, first], -1)

    return Torch(lambda x: x * cos.to(x) + turned(x) * sin.to(x))


def complex_rotary(x: Tensor) -> Tensor:
    """The published model's: neighbours as complex numbers."""
    z = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    turn = torch.from_numpy(np.exp(1j * angles(8))).to(z)
    return torch.view_as_real(z * turn).reshape(x.shape)


def timestep(sine_first: bool = False, shift: int = 0) -> Torch:
    def function(t: Tensor) -> Tensor:
        frequencies = 10000.0 ** (-torch.arange(4, dtype=t.dtype) / (4 - shift))
        parts = [torch.cos(t[:, None] * frequencies), torch.sin(t[:, None] * frequencies)]
        return torch.cat(parts[::-1] if sine_first else parts, -1)

    return Torch(function)


BUGS = (
    Bug(
        "no_attention_scale",
        "Project-MONAI/GenerativeModels/issues/146",
        "attention scale",
        "Cross-attention lacked the factor 1 / sqrt(d).",
        right=attention(),
        wrong=attention(scale=1.0),
        inputs=QKV,
        original=sdpa(),
    ),
    Bug(
        "scale_of_the_whole_width",
        "Graylab/DL4Proteins-notebooks/issues/12",
        "attention scale",
        "The scale took the embedding's width instead of one head's.",
        right=attention(scale=3**-0.5),
        wrong=attention(scale=6**-0.5),
        inputs=HEADS,
        original=sdpa(),
    ),
    Bug(
        "scale_after_softmax",
        "FrancescoSaverioZuppichini/ViT/issues/2",
        "attention scale",
        "The scale multiplied the softmax's result instead of its argument.",
        right=attention(),
        wrong=attention(scale=1.0, after=SCALE),
        inputs=QKV,
        original=sdpa(),
    ),
    Bug(
        "softmax_over_queries",
        "labmlai/annotated_deep_learning_paper_implementations/issues/146",
        "softmax axis",
        "The softmax ran over the queries instead of the keys.",
        right=attention(),
        wrong=attention(axis=-2),
        inputs=QKV,
        original=sdpa(),
    ),
    Bug(
        "softmax_over_the_batch",
        "PetrochukM/PyTorch-NLP/issues/2",
        "softmax axis",
        "The softmax ran over the first axis, batch and queries together, so one sample always got weight 1.",
        right=attention(),
        wrong=attention(axis=0),
        inputs=QKV,
        original=sdpa(),
    ),
    Bug(
        "causal_mask_hides_itself",
        "pbloem/former/issues/10",
        "causal mask",
        "The mask began on the diagonal, so the first query saw nothing and became NaN.",
        right=attention(hidden=AFTER),
        wrong=attention(hidden=torch.ones(4, 4, dtype=torch.bool).triu(0)),
        inputs=QKV,
        original=sdpa(is_causal=True),
    ),
    Bug(
        "causal_mask_flipped",
        "pytorch/examples/issues/649",
        "causal mask",
        "The mask hid the past and showed the future.",
        right=attention(hidden=AFTER),
        wrong=attention(hidden=AFTER.T),
        inputs=QKV,
        original=sdpa(is_causal=True),
    ),
    Bug(
        "mask_of_another_convention",
        "harvard-edge/cs249r_book/pull/1785",
        "causal mask",
        "A mask of 0 and -inf went where one of 1 (keep) and 0 (hide) was expected.",
        right=masked_by_numbers(1.0 - AFTER.double()),
        wrong=masked_by_numbers(torch.zeros(4, 4).masked_fill(AFTER, -math.inf)),
        inputs=QKV,
        original=sdpa(is_causal=True),
    ),
    Bug(
        "masked_with_a_tiny_number",
        "Shujun-He/RibonanzaNet/issues/5",
        "mask value",
        "Masked scores were set to -1e-9 instead of -1e9, which hides nothing.",
        right=attention(hidden=AFTER),
        wrong=attention(hidden=AFTER, value=-1e-9),
        inputs=QKV,
        original=sdpa(is_causal=True),
    ),
    Bug(
        "masked_with_a_number_that_scores_reach",
        "TransformerLensOrg/TransformerLens/issues/318",
        "mask value",
        "Masked scores were set to -1e5, and a real model's scores fell below that.",
        right=attention(hidden=AFTER),
        wrong=attention(hidden=AFTER, value=-1e5),
        inputs=QKV,
        original=sdpa(is_causal=True),
    ),
    Bug(
        "fully_masked_row",
        "tracel-ai/burn/pull/4697",
        "fully masked row",
        "A query whose keys are all masked gave NaN where the other backends give 0.",
        right=padded_attention(True),
        wrong=padded_attention(False),
        inputs=QKV,
        original=sdpa(
            attn_mask=torch.tensor(
                [[False] * 4, [True, True, False, False], [True] * 4, [False, True, True, True]]
            )
        ),
    ),
    Bug(
        "fused_projection_order",
        "awslabs/slapo/pull/46",
        "head order",
        "Weights that interleave query, key and value by head were split into all queries, keys and values.",
        right=fused(interleaved=True),
        wrong=fused(interleaved=False),
        inputs={"qkv": (2, 3, 24)},
        original=Torch(
            lambda qkv: torch.cat(
                [
                    F.scaled_dot_product_attention(*qkv[..., 12 * h : 12 * h + 12].split(4, -1))
                    for h in range(2)
                ],
                -1,
            )
        ),
    ),
    Bug(
        "heads_split_without_transpose",
        "reczoo/FuxiCTR/issues/30",
        "head order",
        "A reshape straight to (batch, heads, time, size) mixed positions with heads.",
        right=split_heads(True),
        wrong=split_heads(False),
        inputs=QKV,
        original=Torch(
            lambda q, k, v: torch.cat(
                [
                    F.scaled_dot_product_attention(q[..., h], k[..., h], v[..., h])
                    for h in (slice(4), slice(4, 8))
                ],
                -1,
            )
        ),
        without=("one sample",),
    ),
    Bug(
        "heads_merged_without_transpose",
        "jsbaan/transformer-from-scratch/pull/6",
        "head order",
        "Heads were merged by a reshape without the permutation before it, so tokens exchanged their values.",
        right=merge_heads(True),
        wrong=merge_heads(False),
        inputs={"x": (2, 2, 4, 3)},
        original=Torch(lambda x: torch.cat([x[:, 0], x[:, 1]], -1)),
    ),
    Bug(
        "heads_before_projection",
        "MarcoMeter/episodic-transformer-memory-ppo/pull/22",
        "head order",
        "The input was split into heads first and all heads shared one small projection.",
        right=projected_heads(True),
        wrong=projected_heads(False),
        inputs={"x": (2, 3, 8)},
        parameters={"weight": (8, 8)},
        original=Torch(lambda x, weight: torch.stack([x @ weight[:, :4], x @ weight[:, 4:]], 1)),
    ),
    Bug(
        "grouped_heads_tiled",
        "ekzhang/jax-js/pull/180",
        "head order",
        "Grouped-query attention tiled its key and value heads instead of repeating each.",
        right=grouped(lambda k: k.repeat_interleave(2, 1)),
        wrong=grouped(lambda k: k.repeat(1, 2, 1, 1)),
        inputs={"q": (2, 4, 3, 4), "k": (2, 2, 3, 4), "v": (2, 2, 3, 4)},
        original=sdpa(fused=True, enable_gqa=True),
    ),
    Bug(
        "rotary_halves",
        "huggingface/transformers/issues/25199",
        "rotary embedding",
        "The original turns neighbouring channels, the port the two halves, without permuting the weights.",
        right=rotary("neighbours", "neighbours"),
        wrong=rotary("halves", "halves"),
        inputs={"x": (2, 5, 8)},
        original=Torch(complex_rotary),
    ),
    Bug(
        "rotary_table_of_the_other_kind",
        "raiyanyahya/how-to-train-your-gpt/issues/6",
        "rotary embedding",
        "The table repeats angles for neighbouring channels, and the rotation pairs the halves.",
        right=rotary("neighbours", "neighbours"),
        wrong=rotary("halves", "neighbours"),
        inputs={"x": (2, 5, 8)},
        original=Torch(complex_rotary),
    ),
    Bug(
        "sine_and_cosine_swapped",
        "flashinfer-ai/flashinfer/pull/3819",
        "sinusoids",
        "The halves of the timestep embedding came in the other order.",
        right=timestep(),
        wrong=timestep(sine_first=True),
        inputs={"t": (6,)},
        original=Torch(
            lambda t: torch.stack([f(t * 10 ** (-k)) for f in (torch.cos, torch.sin) for k in range(4)], 1)
        ),
    ),
    Bug(
        "sinusoid_frequency_shift",
        "kohya-ss/sd-scripts/pull/1187",
        "sinusoids",
        "Frequencies were spread over n - 1 steps where the model was trained with n.",
        right=timestep(),
        wrong=timestep(shift=1),
        inputs={"t": (6,)},
        original=Torch(
            lambda t: torch.stack([f(t * 10 ** (-k)) for f in (torch.cos, torch.sin) for k in range(4)], 1)
        ),
    ),
)
