"""A ResNet of basic blocks: torch's, channels first, and the port to Flax NNX, channels last."""

from __future__ import annotations

from typing import Any

import jax
import torch
from flax import nnx
from torch import Tensor, nn

from evidence.ports.port import Mistake, Ported, arrays, filled, norm


class TorchBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        changes = stride != 1 or before != width
        down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.downsample = down if changes else None

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        found: Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)
        return found


class TorchResNet(nn.Module):
    """A pool in front of the classifier leaves 2 x 2 pixels, so that the order of flattening counts."""

    def __init__(self, width: int, stages: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        before, blocks = width, list[nn.Module]()
        for i in range(stages):
            after = width * 2**i
            blocks += [TorchBlock(before, after, 1 if i == 0 else 2), TorchBlock(after, after, 1)]
            before = after
        self.blocks, self.pool = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(4 * before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        found: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return found


class BatchNorm(nnx.BatchNorm):
    """As torch keeps its statistics: the running variance is the unbiased one."""

    def __init__(self, width: int, wrong: str) -> None:
        momentum = {"momentum of 0.99": 0.99, "momentum turned round": 0.1}.get(wrong, 0.9)
        eps = 1e-3 if wrong == "eps of 1e-3" else 1e-5
        super().__init__(width, momentum=momentum, epsilon=eps, rngs=nnx.Rngs(0))
        self.biased = wrong == "biased running variance"

    def __call__(self, x: Any, *rest: Any, **named: Any) -> Any:
        before = self.var.get_value()
        y = super().__call__(x, *rest, **named)
        if not (self.biased or self.use_running_average):
            n = x.size // x.shape[-1]
            self.var.set_value(
                before * self.momentum + (self.var.get_value() - before * self.momentum) * n / (n - 1)
            )
        return y


def conv(before: int, width: int, size: int, stride: int, wrong: str) -> nnx.Conv:
    padding: Any = "SAME" if wrong == "SAME at stride 2" else size // 2
    rngs = nnx.Rngs(0)
    return nnx.Conv(before, width, (size, size), stride, padding=padding, use_bias=False, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, before: int, width: int, stride: int, wrong: str) -> None:
        self.wrong = wrong
        self.conv1, self.bn1 = conv(before, width, 3, stride, wrong), BatchNorm(width, wrong)
        self.conv2, self.bn2 = conv(width, width, 3, 1, ""), BatchNorm(width, wrong)
        changes = stride != 1 or before != width
        down = nnx.Sequential(conv(before, width, 1, stride, ""), BatchNorm(width, wrong))
        self.down = nnx.data(down if changes else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        kept = x if self.down is None else self.down(x)
        if self.wrong == "shortcut detached":
            kept = jax.lax.stop_gradient(kept)
        y = self.bn1(self.conv1(x))
        y = self.bn2(self.conv2(y if self.wrong == "a ReLU left out" else nnx.relu(y)))
        if self.wrong == "ReLU in front of the sum":
            return nnx.relu(y) + kept
        return nnx.relu(y if self.wrong == "shortcut left out" else y + kept)


class ResNet(nnx.Module):
    def __init__(self, width: int, stages: int, wrong: str) -> None:
        self.wrong = wrong
        self.conv1, self.bn1 = conv(3, width, 3, 1, ""), BatchNorm(width, "")
        before, blocks = width, list[nnx.Module]()
        for i in range(stages):
            after = width * 2**i
            first = Block(before, after, 1 if i == 0 else 2, wrong)
            blocks += [first, Block(after, after, 1, wrong if wrong != "SAME at stride 2" else "")]
            before = after
        self.blocks = nnx.List(blocks)
        self.fc = nnx.Linear(4 * before, 10, use_bias=wrong != "no bias", rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        for block in self.blocks:
            x = block(x)
        n, size, _, channels = x.shape
        x = x.reshape(n, 2, size // 2, 2, size // 2, channels)
        x = x.max((2, 4)) if self.wrong == "another pool" else x.mean((2, 4))
        found: jax.Array = self.fc(x.reshape(n, -1))
        return found


def ported(width: int, stages: int, pixels: int, batch: int) -> Ported:
    def reference() -> nn.Module:
        model = TorchResNet(width, stages).train()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias)
        with torch.no_grad():
            model(torch.randn(8, 3, pixels, pixels))  # so that statistics are not fresh
        return model

    def port(reference: nn.Module, wrong: str) -> nnx.Module:
        p, model = arrays(reference), ResNet(width, stages, wrong)
        values: dict[str, Any] = {}
        for key in (key for key in p if key.endswith(".weight")):
            theirs = key.removesuffix(".weight")
            own = theirs.replace("downsample", "down.layers")
            if p[key].ndim == 4:
                turned = p[key].transpose(2, 3, 1, 0)
                if wrong == "kernel reshaped for turned" and theirs == "blocks.1.conv2":
                    turned = p[key].reshape(turned.shape)
                values[f"{own}.kernel"] = turned
            elif p[key].ndim == 1:
                values |= norm(p, theirs, own)
        if wrong == "stale statistics":
            values = {k: v for k, v in values.items() if not k.endswith((".mean", ".var"))}
        if wrong == "scale not loaded":
            del values["blocks.0.bn2.scale"]
        w = p["fc.weight"]
        turned = w.reshape(10, -1, 2, 2).transpose(0, 2, 3, 1).reshape(10, -1)
        values["fc.kernel"] = (w if wrong == "order of flattening" else turned).T
        if wrong != "no bias":
            values["fc.bias"] = p["fc.bias"]
        model.train()
        return filled(model, values)

    return Ported("ResNet", {"x": (batch, 3, pixels, pixels)}, reference, port, MISTAKES, (False, True))


MISTAKES = (
    Mistake("eps of 1e-3", "blocks.0.bn1"),
    Mistake("momentum of 0.99", "blocks.0.bn1", training=True),
    Mistake("momentum turned round", "blocks.0.bn1", training=True),
    Mistake("biased running variance", "blocks.0.bn1", training=True),
    Mistake("left in training mode", "bn1"),
    Mistake("stale statistics", "bn1"),
    Mistake("scale not loaded", "blocks.0.bn2"),
    Mistake("SAME at stride 2", "blocks.2.conv1"),
    Mistake("kernel reshaped for turned", "blocks.1.conv2"),
    Mistake("a ReLU left out", "blocks.0"),
    Mistake("ReLU in front of the sum", "blocks.0"),
    Mistake("shortcut left out", "blocks.0"),
    Mistake("shortcut detached", "blocks.3"),
    Mistake("another pool", "the model itself"),
    Mistake("order of flattening", "fc"),
    Mistake("no bias", "fc"),
)
SMALL, WHOLE = ported(4, 2, 8, 2), ported(64, 4, 32, 4)
