"""LSTM and GRU cells: the order of gates, the place of the reset gate and of the biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from evidence.real_bugs.bug import Bug
from parity import Torch

N = 3
LSTM: dict[str, Any] = {"x": (4, 2), "h": (4, N), "c": (4, N)}
LSTM_WEIGHTS = {"wx": (4 * N, 2), "wh": (4 * N, N), "b": (4 * N,)}
GRU: dict[str, Any] = {"x": (4, 2), "h": (4, N)}
GRU_WEIGHTS = {"wx": (3 * N, 2), "wh": (3 * N, N), "bx": (3 * N,), "bh": (3 * N,)}


def lstm(order: str) -> Torch:
    """The new hidden state; `order` names the gates as the weights hold them (g: the candidate)."""

    def function(x: Tensor, h: Tensor, c: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Tensor:
        parts = dict(zip(order, (x @ wx.T + h @ wh.T + b).chunk(4, -1), strict=True))
        i, f, o = (torch.sigmoid(parts[gate]) for gate in "ifo")
        return o * torch.tanh(f * c + i * torch.tanh(parts["g"]))

    return Torch(function)


def onnx_lstm(x: Tensor, h: Tensor, c: Tensor, wx: Tensor, wh: Tensor, b: Tensor) -> Tensor:
    """torch's own cell, given ONNX's i, o, f, g rearranged."""

    def arranged(w: Tensor) -> Tensor:
        i, o, f, g = w.chunk(4)
        return torch.cat([i, f, g, o])

    return torch.lstm_cell(x, (h, c), arranged(wx), arranged(wh), arranged(b), torch.zeros_like(b))[0]


def gru(order: str = "rzn", reset: str = "after", biases: str = "apart") -> Torch:
    """`reset`: before or after the state's product. `biases`: both kept, or added into one."""

    def function(x: Tensor, h: Tensor, wx: Tensor, wh: Tensor, bx: Tensor, bh: Tensor) -> Tensor:
        if biases == "merged":
            bx, bh = bx + bh, torch.zeros_like(bh)
        from_x = dict(zip(order, (x @ wx.T + bx).chunk(3, -1), strict=True))
        from_h = dict(zip(order, (h @ wh.T + bh).chunk(3, -1), strict=True))
        r, z = (torch.sigmoid(from_x[gate] + from_h[gate]) for gate in "rz")
        before = (r * h) @ wh[2 * N :].T + bh[2 * N :]
        n = torch.tanh(from_x["n"] + (r * from_h["n"] if reset == "after" else before))
        return (1 - z) * n + z * h

    return Torch(function)


def keras_gru(x: Tensor, h: Tensor, wx: Tensor, wh: Tensor, bx: Tensor, bh: Tensor) -> Tensor:
    """torch's own cell, given Keras' z, r, n rearranged."""

    def arranged(w: Tensor) -> Tensor:
        z, r, n = w.chunk(3)
        return torch.cat([r, z, n])

    return torch.gru_cell(x, h, arranged(wx), arranged(wh), arranged(bx), arranged(bh))


BUGS = (
    Bug(
        "lstm_gate_order",
        "CrispStrobe/CrispASR/pull/106",
        "gate order",
        "Weights from ONNX lie as i, o, f, c; the port read them as torch's i, f, g, o.",
        right=lstm("iofg"),
        wrong=lstm("ifgo"),
        inputs=LSTM,
        parameters=LSTM_WEIGHTS,
        original=Torch(onnx_lstm),
    ),
    Bug(
        "gru_gate_order",
        "keras-team/keras/issues/8720",
        "gate order",
        "Keras' GRU holds z, r, h and torch's r, z, n; the weights were copied without exchanging them.",
        right=gru("zrn"),
        wrong=gru("rzn"),
        inputs=GRU,
        parameters=GRU_WEIGHTS,
        original=Torch(keras_gru),
    ),
    Bug(
        "gru_reset_before",
        "microsoft/onnxscript/issues/2852",
        "GRU reset",
        "ONNX resets the state before its product by default, torch the product; the export did not say so.",
        right=gru(),
        wrong=gru(reset="before"),
        inputs=GRU,
        parameters=GRU_WEIGHTS,
        original=Torch(torch.gru_cell),
    ),
    Bug(
        "gru_biases_merged",
        "apple/coremltools/issues/1124",
        "GRU reset",
        "Both biases were added into one, but the reset gate multiplies only the state's.",
        right=gru(),
        wrong=gru(biases="merged"),
        inputs=GRU,
        parameters=GRU_WEIGHTS,
        original=Torch(torch.gru_cell),
    ),
)
