"""A classifier of sequences by two LSTM layers: torch's, and the port to Flax NNX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import Tensor, nn

from evidence.ports.port import Mistake, Ported, arrays, dense, filled

GATES = ("i", "f", "g", "o")


class TorchClassifier(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm0 = nn.LSTM(width, width, batch_first=True)
        self.lstm1 = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.lstm1(self.lstm0(self.embed(tokens))[0])[0]
        found: Tensor = self.head(x[:, -1])
        return found


class Cell(nnx.LSTMCell):
    def __init__(self, width: int, wrong: str) -> None:
        super().__init__(width, width, rngs=nnx.Rngs(0))
        self.wrong = wrong

    def __call__(self, carry: Any, x: jax.Array) -> Any:
        if self.wrong == "state detached":
            carry = jax.lax.stop_gradient(carry)
        c, h = carry
        i = jax.nn.sigmoid(self.ii(x) + self.hi(h))
        f = jax.nn.sigmoid(self.if_(x) + self.hf(h) + (1.0 if self.wrong == "forget bias of 1" else 0.0))
        g = self.ig(x) + self.hg(h)
        g = jax.nn.sigmoid(g) if self.wrong == "sigmoid for tanh" else jnp.tanh(g)
        o = jax.nn.sigmoid(self.io(x) + self.ho(h))
        c = f * c + i * g
        h = o * (c if self.wrong == "no tanh of the cell" else jnp.tanh(c))
        return (c, h), (c if self.wrong == "cell in place of the hidden state" else h)


class Classifier(nnx.Module):
    def __init__(self, words: int, width: int, wrong: str) -> None:
        self.wrong = wrong
        self.embed = nnx.Embed(words, width, rngs=nnx.Rngs(0))
        self.lstm0, self.lstm1 = nnx.RNN(Cell(width, wrong)), nnx.RNN(Cell(width, ""))
        self.head = nnx.Linear(width, 5, rngs=nnx.Rngs(0))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        wrong, x = self.wrong, self.embed(tokens)
        y = self.lstm0(x, reverse=wrong == "read backwards", keep_order=True)
        y = jax.lax.stop_gradient(y) if wrong == "first layer detached" else y
        y = self.lstm1(x if wrong == "first layer skipped" else y)
        y = {"first step": y[:, 0], "mean of the steps": y.mean(1)}.get(wrong, y[:, -1])
        found: jax.Array = self.head(y)
        return found


def ported(words: int, width: int, length: int, batch: int) -> Ported:
    def port(reference: nn.Module, wrong: str) -> nnx.Module:
        p = arrays(reference)
        values = dense(p, "head", "head") | {"embed.embedding": p["embed.weight"]}
        for layer in ("lstm0", "lstm1"):
            mistake = wrong if layer == "lstm0" else ""
            order = ("i", "f", "o", "g") if mistake == "gates in another order" else GATES
            bias = p[f"{layer}.bias_ih_l0"] + (
                0 if mistake == "one bias of two" else p[f"{layer}.bias_hh_l0"]
            )
            for k, gate in enumerate(order):
                rows = slice(k * width, (k + 1) * width)
                w, u = p[f"{layer}.weight_ih_l0"][rows], p[f"{layer}.weight_hh_l0"][rows]
                name = "if_" if gate == "f" else f"i{gate}"
                values[f"{layer}.cell.{name}.kernel"] = w.T
                values[f"{layer}.cell.h{gate}.kernel"] = u if mistake == "state's weights not turned" else u.T
                values[f"{layer}.cell.h{gate}.bias"] = bias[rows]
        return filled(Classifier(words, width, wrong), values)

    mistakes = (
        Mistake("gates in another order", "lstm0"),
        Mistake("one bias of two", "lstm0"),
        Mistake("forget bias of 1", "lstm0"),
        Mistake("sigmoid for tanh", "lstm0"),
        Mistake("no tanh of the cell", "lstm0"),
        Mistake("cell in place of the hidden state", "lstm0"),
        Mistake("state's weights not turned", "lstm0"),
        Mistake("read backwards", "lstm0"),
        Mistake("state detached", "lstm0"),
        Mistake("first layer detached", "lstm1"),
        Mistake("first layer skipped", "the model itself"),
        Mistake("first step", "the model itself"),
        Mistake("mean of the steps", "the model itself"),
    )
    tokens = np.random.default_rng(0).integers(0, words, (batch, length))
    return Ported("LSTM", {"tokens": tokens}, lambda: TorchClassifier(words, width), port, mistakes)
