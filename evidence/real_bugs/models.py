"""Whole models, judged by `verify_model`: where norms and branches join, what is tied, what is cut off."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from evidence.real_bugs.bug import ModelBug

TOKENS: dict[str, Any] = {"x": (3, 4, 8)}


class Block(nn.Module):
    """Linear layers for attention and feed-forward, each with a norm and a residual branch."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = norm
        self.mix, self.feed = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        """`after`: post-norm. `branch`: the branch is normalized, then added. `before`: pre-norm. `late`: the
        second residual branch starts behind its norm.
        """
        if self.norm == "after":
            x = self.norm1(x + self.mix(x))
            return self.norm2(x + self.feed(x))
        if self.norm == "branch":
            x = x + self.norm1(self.mix(x))
            return x + self.norm2(self.feed(x))
        x = x + self.mix(self.norm1(x))
        if self.norm == "late":
            x = self.norm2(x)
            return x + self.feed(x)
        return x + self.feed(self.norm2(x))


class Head(nn.Module):
    """An embedding that is also the output layer's weight."""

    def __init__(self, scaled: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scaled = scaled
        self.embedding = nn.Parameter(torch.randn(5, 8))

    def forward(self, tokens: Tensor, shift: Tensor) -> Tensor:
        """`lookup`: what is looked up is multiplied by sqrt(8). `table`: so is the output layer's weight.
        `output`: the hidden state is divided by it, too. `twice`: the lookup is scaled two times.
        """
        root = math.sqrt(8)
        hidden = torch.tanh(self.embedding[tokens] * (8 if self.scaled == "twice" else root) + shift)
        if self.scaled == "output":
            hidden = hidden / root
        return hidden @ (self.embedding * root if self.scaled == "table" else self.embedding).T


class Encoder(nn.Module):
    """Features and a classifier on top."""

    def __init__(self, cut: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut = cut
        self.encoder, self.head = nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.encoder(x))
        return self.head(features.detach() if self.cut else features) + 0 * x.sum()


WORDS: dict[str, Any] = {"tokens": torch.tensor([[0, 3, 1], [4, 4, 2]]).numpy(), "shift": (2, 3, 8)}

BUGS = (
    ModelBug(
        "residual_after_post_norm",
        "mashrurmorshed/Torch-KWT/issues/13",
        "pre- and post-norm",
        "Post-norm normalized the branch alone and added the residual after it.",
        right=Block("after"),
        wrong=Block("branch"),
        inputs=TOKENS,
        original=Block("after"),
        layers={"mix": "mix", "feed": "feed"},
        convert=dict,
    ),
    ModelBug(
        "residual_behind_the_norm",
        "SHI-Labs/Compact-Transformers/issues/25",
        "pre- and post-norm",
        "The second residual branch started behind its norm instead of in front of it.",
        right=Block("before"),
        wrong=Block("late"),
        inputs=TOKENS,
        original=Block("before"),
        layers={"mix": "mix", "norm2": "norm2", "feed": "feed"},
        convert=dict,
    ),
    ModelBug(
        "embedding_scaled_twice",
        "TensorAuto/OpenTau/pull/179",
        "embedding scale",
        "Gemma 3's embedding layer already multiplies by sqrt(d), and the caller did so again.",
        right=Head("lookup"),
        wrong=Head("twice"),
        inputs=WORDS,
        original=Head("lookup"),
        convert=dict,
    ),
    ModelBug(
        "embedding_table_scaled",
        "mattn/tensai/pull/248",
        "tied weights",
        "The table itself was scaled at load, and the tied output layer read the scaled one.",
        right=Head("lookup"),
        wrong=Head("table"),
        inputs=WORDS,
        original=Head("lookup"),
        convert=dict,
    ),
    ModelBug(
        "tied_output_not_scaled",
        "ml-explore/mlx-examples/pull/591",
        "tied weights",
        "T5 scales the hidden state where the output layer is tied; the port did so where it is not.",
        right=Head("output"),
        wrong=Head("lookup"),
        inputs=WORDS,
        original=Head("output"),
        convert=dict,
    ),
    ModelBug(
        "features_detached",
        "lucidrains/CoCa-pytorch/issues/6",
        "detached branch",
        "The features were detached on the way, and the encoder below never trained.",
        right=Encoder(cut=False),
        wrong=Encoder(cut=True),
        inputs={"x": (3, 8)},
        original=Encoder(cut=False),
        layers={"encoder": "encoder"},
        convert=dict,
    ),
)
