"""A vision transformer and a GPT: torch's, and the ports to Flax NNX."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import Tensor, nn

from evidence.ports.port import Mistake, Ported, arrays, dense, filled, norm


class TorchAttention(nn.Module):
    """Queries, keys and values from one layer, in this order."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        found: Tensor = self.out(y.transpose(1, 2).reshape(n, t, d))
        return found


class TorchBlock(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.ln1, self.attention = nn.LayerNorm(width), TorchAttention(width, heads, causal)
        self.ln2, self.up, self.down = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.approximate = "tanh" if causal else "none"

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate=self.approximate))


class TorchViT(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, pixels: int, patch: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + (pixels // patch) ** 2, width))
        self.blocks = nn.Sequential(*(TorchBlock(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        found: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return found


class TorchGPT(nn.Module):
    """The output layer's weight is the embedding's."""

    def __init__(self, words: int, length: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(TorchBlock(width, heads, True) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions(torch.arange(tokens.shape[1]))
        found: Tensor = self.head(self.norm(self.blocks(x)))
        return found


class Attention(nnx.Module):
    def __init__(self, width: int, heads: int, causal: bool, wrong: str) -> None:
        self.heads, self.causal, self.wrong = heads, causal, wrong
        rngs = nnx.Rngs(0)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=wrong != "no output bias", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        (n, t, d), wrong = x.shape, self.wrong
        size = d // self.heads
        if wrong == "queries, keys, values head by head":
            q, k, v = self.qkv(x).reshape(n, t, self.heads, 3, size).transpose(3, 0, 2, 1, 4)
        elif wrong == "heads along the last axis":
            q, k, v = self.qkv(x).reshape(n, t, 3, size, self.heads).transpose(2, 0, 4, 1, 3)
        else:
            q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, size).transpose(2, 0, 3, 1, 4)
        if wrong == "keys before queries":
            q, k = k, q
        scale = {"scale by the whole width": d, "no scale": 1}.get(wrong, size)
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(scale)
        if self.causal and wrong != "no mask":
            mask = jnp.tril(jnp.ones((t, t), bool), 1 if wrong == "mask off by one" else 0)
            scores = jnp.where(mask, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=-2 if wrong == "softmax over queries" else -1)
        y = (weights @ v).transpose(0, 2, 1, 3)
        y = y.reshape(n, t, d) if wrong != "heads not joined" else y.swapaxes(2, 3).reshape(n, t, d)
        found: jax.Array = self.out(y)
        return found


class Block(nnx.Module):
    def __init__(self, width: int, heads: int, causal: bool, wrong: str) -> None:
        rngs, eps = nnx.Rngs(0), 1e-6 if wrong == "eps of 1e-6" else 1e-5
        self.ln1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.ln2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.attention = Attention(width, heads, causal, wrong)
        self.up, self.down = nnx.Linear(width, 2 * width, rngs=rngs), nnx.Linear(2 * width, width, rngs=rngs)
        self.wrong, self.approximate = wrong, causal != (wrong == "the other GELU")

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.wrong == "norm behind the branch":
            x = self.ln1(x + self.attention(x))
            return self.ln2(x + self.down(nnx.gelu(self.up(x), approximate=self.approximate)))
        y = self.attention(self.ln1(x))
        if self.wrong == "branch detached":
            y = jax.lax.stop_gradient(y)
        kept = self.ln1(x) if self.wrong == "residual behind the norm" else x
        x = kept + y
        return x + self.down(nnx.gelu(self.up(self.ln2(x)), approximate=self.approximate))


class ViT(nnx.Module):
    def __init__(self, width: int, heads: int, depth: int, pixels: int, patch: int, wrong: str) -> None:
        rngs, self.wrong = nnx.Rngs(0), wrong
        self.embed = nnx.Conv(3, width, (patch, patch), patch, padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = nnx.Param(jnp.zeros((1, 1 + (pixels // patch) ** 2, width)))
        self.blocks = nnx.List([Block(width, heads, False, wrong) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs), nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x, wrong = self.embed(x), self.wrong
        x = x.swapaxes(1, 2) if wrong == "patches column by column" else x
        x = x.reshape(len(x), -1, x.shape[-1])
        cls = jnp.broadcast_to(self.cls[...], (len(x), 1, x.shape[-1]))
        if wrong == "no position for the class token":
            x = jnp.concatenate([cls, x + self.positions[...][:, 1:]], 1)
        elif wrong == "class token at the end":
            x = jnp.concatenate([x, cls], 1) + self.positions[...]
        else:
            x = jnp.concatenate([cls, x], 1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        x = x if wrong == "no last norm" else self.norm(x)
        found: jax.Array = self.head(x.mean(1) if wrong == "mean in place of the class token" else x[:, 0])
        return found


class GPT(nnx.Module):
    def __init__(self, words: int, length: int, width: int, heads: int, depth: int, wrong: str) -> None:
        rngs, self.wrong = nnx.Rngs(0), wrong
        self.words, self.positions = nnx.Embed(words, width, rngs=rngs), nnx.Embed(length, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, heads, True, wrong) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x, wrong = self.words(tokens), self.wrong
        x = x * math.sqrt(x.shape[-1]) if wrong == "embedding scaled" else x
        numbers = jnp.arange(tokens.shape[1])
        x = x + self.positions(numbers + 1 if wrong == "positions from 1" else numbers)
        for block in self.blocks:
            x = block(x)
        table = self.words.embedding[...]
        if wrong == "head tied to a copy":
            table = jax.lax.stop_gradient(table)
        found: jax.Array = self.norm(x) @ table.T
        return found


def _blocks(p: dict[str, Any], depth: int) -> dict[str, Any]:
    values = norm(p, "norm", "norm")
    for i in range(depth):
        for part in ("ln1", "ln2"):
            values |= norm(p, f"blocks.{i}.{part}", f"blocks.{i}.{part}")
        for part in ("attention.qkv", "attention.out", "up", "down"):
            values |= dense(p, f"blocks.{i}.{part}", f"blocks.{i}.{part}")
    return values


def _trained(model: nn.Module) -> nn.Module:
    """Scales and shifts off 1 and 0."""
    for part in model.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    return model


def vit(width: int, heads: int, depth: int, pixels: int, patch: int, batch: int) -> Ported:
    def reference() -> nn.Module:
        return _trained(TorchViT(width, heads, depth, pixels, patch))

    def port(reference: nn.Module, wrong: str) -> nnx.Module:
        p = arrays(reference)
        values = _blocks(p, depth) | dense(p, "head", "head")
        values |= {"cls": p["cls"], "positions": p["positions"], "embed.bias": p["embed.bias"]}
        turned = (3, 2, 1, 0) if wrong == "patch turned on its side" else (2, 3, 1, 0)
        values["embed.kernel"] = p["embed.weight"].transpose(turned)
        if wrong == "no output bias":
            values = {key: a for key, a in values.items() if not key.endswith("attention.out.bias")}
        return filled(ViT(width, heads, depth, pixels, patch, wrong), values)

    mistakes = (
        Mistake("patch turned on its side", "embed"),
        Mistake("patches column by column", "the model itself"),
        Mistake("no position for the class token", "the model itself"),
        Mistake("class token at the end", "the model itself"),
        Mistake("mean in place of the class token", "the model itself"),
        Mistake("no last norm", "the model itself"),
        Mistake("norm behind the branch", "blocks.0"),
        Mistake("the other GELU", "blocks.0"),
        Mistake("eps of 1e-6", "blocks.0.ln1"),
        Mistake("keys before queries", "blocks.0.attention"),
        Mistake("scale by the whole width", "blocks.0.attention"),
        Mistake("softmax over queries", "blocks.0.attention"),
        Mistake("heads not joined", "blocks.0.attention"),
        Mistake("no output bias", "blocks.0.attention.out"),
    )
    return Ported("ViT", {"x": (batch, 3, pixels, pixels)}, reference, port, mistakes)


def gpt(words: int, length: int, width: int, heads: int, depth: int, batch: int) -> Ported:
    sizes = words, length + 1, width, heads, depth

    def reference() -> nn.Module:
        return _trained(TorchGPT(*sizes))

    def port(reference: nn.Module, wrong: str) -> nnx.Module:
        p = arrays(reference)
        values = _blocks(p, depth)
        values |= {"words.embedding": p["words.weight"], "positions.embedding": p["positions.weight"]}
        return filled(GPT(*sizes, wrong), values)

    mistakes = (
        Mistake("no mask", "blocks.0.attention"),
        Mistake("mask off by one", "blocks.0.attention"),
        Mistake("no scale", "blocks.0.attention"),
        Mistake("queries, keys, values head by head", "blocks.0.attention"),
        Mistake("heads along the last axis", "blocks.0.attention"),
        Mistake("the other GELU", "blocks.0"),
        Mistake("embedding scaled", "the model itself"),
        Mistake("positions from 1", "the model itself"),
        Mistake("head tied to a copy", "words"),
        Mistake("branch detached", "blocks.1"),
        Mistake("residual behind the norm", "blocks.0"),
        Mistake("eps of 1e-6", "blocks.0.ln1"),
    )
    tokens = np.random.default_rng(0).integers(0, words, (batch, length))
    return Ported("GPT", {"tokens": tokens}, reference, port, mistakes)
