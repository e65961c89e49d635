"""ResNet-18 in torch and in JAX, as people port it."""

from __future__ import annotations

from typing import Any

import jax
import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two convolutions around one ReLU that is called twice."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or before != width
        down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.downsample = down if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        found: torch.Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)
        return found


class ResNet(nn.Module):
    def __init__(self, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for i in range(4):
            after = width * 2**i
            blocks = BasicBlock(before, after, 1 if i == 0 else 2), BasicBlock(after, after, 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            before = after
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        found: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return found


def in_jax(p: Any, x: jax.Array, eps: float = 1e-5) -> dict[str, jax.Array]:
    """Channels first, weights as torch names and lays them out."""

    def conv(x: jax.Array, name: str, stride: int, padding: int) -> jax.Array:
        order = ("NCHW", "OIHW", "NCHW")
        sides = [(padding, padding)] * 2
        return jax.lax.conv_general_dilated(
            x, p[f"{name}.weight"], (stride,) * 2, sides, dimension_numbers=order
        )

    def norm(x: jax.Array, name: str) -> jax.Array:
        mean, variance, weight, bias = (
            p[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) * jax.lax.rsqrt(variance + eps) * weight + bias

    def block(x: jax.Array, name: str) -> jax.Array:
        changes = f"{name}.downsample.0.weight" in p
        stride = 2 if changes and not name.startswith("layer1") else 1
        kept = norm(conv(x, f"{name}.downsample.0", stride, 0), f"{name}.downsample.1") if changes else x
        inner = jax.nn.relu(norm(conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1"))
        return jax.nn.relu(norm(conv(inner, f"{name}.conv2", 1, 1), f"{name}.bn2") + kept)

    seen = {}
    x = jax.nn.relu(norm(conv(x, "conv1", 2, 3), "bn1"))
    x = jax.lax.reduce_window(
        x, -jax.numpy.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), [(0, 0)] * 2 + [(1, 1)] * 2
    )
    for i in range(1, 5):
        x = seen[f"layer{i}"] = block(block(x, f"layer{i}.0"), f"layer{i}.1")
    return {**seen, "output": x.mean((2, 3)) @ p["fc.weight"].T + p["fc.bias"]}
