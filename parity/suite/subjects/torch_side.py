"""torch modules, autograd and torch's own optimizers, run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.suite.subjects import Subject, carried, whole
from parity.verification.place import Inputs, Outputs, Place, Settings
from torch_models import augment, conv, dense, loss, norm, optim
from torch_models.model import Network
from torch_models.precision import pinned
from triptych.describe.layers import Flatten
from triptych.describe.protocol import optimizer_slots
from triptych.describe.spec import Device


def devices() -> list[Device]:
    """The CPU, and a GPU where torch has one."""
    return ["cpu", "gpu"] if torch.cuda.is_available() else ["cpu"]


def default_products(item: str, device: Device) -> str:
    """torch's default on a GPU: TF32 in cuDNN's convolutions, not in other products
    (docs.pytorch.org/docs/stable/notes/numerical_accuracy.html).
    """
    return "tf32" if device == "gpu" and item.startswith("conv2d") else "float32"


@contextmanager
def _context(place: Place) -> Iterator[None]:
    """Pinned precision, unless torch's default is what is judged."""
    if place.shipped:
        yield
    else:
        with pinned(place.tf32):
            yield


def _put(array: np.ndarray, place: Place) -> Tensor:
    device = "cuda" if place.device == "gpu" else "cpu"
    return torch.from_numpy(array).to(device)


def _take(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None, "no gradient came back"
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()


def _number(place: Place) -> torch.dtype:
    found: torch.dtype = getattr(torch, place.number)
    return found


def _pull(function: Callable[[Tensor], Tensor], inputs: Inputs, place: Place, name: str = "x") -> Outputs:
    """y and dx of a function of `name`, cast to the judged dtype; other gradients stay where they are."""
    with _context(place):
        x = _put(inputs[name], place).to(_number(place)).requires_grad_()
        y = function(x)
        y.backward(_put(inputs["d" + ("p" if name == "s" else "y")], place).to(y.dtype))
    return {"y": _take(y), "dx": _take(x.grad)}


def _set(parameter: Tensor, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(array))


def _on(module: nn.Module, place: Place) -> Any:
    return module.to("cuda" if place.device == "gpu" else "cpu")


def _master(inputs: Inputs, name: str) -> torch.dtype:
    """Parameters keep the dtype that they come in: float32 for bfloat16."""
    return torch.from_numpy(inputs[name]).dtype


def linear(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """See parity.suite.truth.dense; so for all below."""
    layer = _linear_module(inputs, place)
    outputs = _pull(layer, inputs, place)
    return outputs | {"dW": _take(layer.weight.grad), "db": _take(layer.bias.grad)}


def _linear_module(inputs: Inputs, place: Place) -> dense.Linear:
    W = inputs["W"]
    layer = dense.Linear(W.shape[1], W.shape[0], dtype=_master(inputs, "W"))
    _set(layer.weight, W)
    _set(layer.bias, inputs["b"])
    found: dense.Linear = _on(layer, place)
    return found


def leaky_relu(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Any shape."""
    return _pull(dense.LeakyReLU(settings["slope"]), inputs, place)


def dropout(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With the mask given."""
    layer, keep = dense.Dropout(settings["rate"]), _put(inputs["keep"], place)
    return _pull(lambda x: layer(x, keep), inputs, place)


def flatten(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """As the network does it."""
    network = Network((Flatten("flatten"),), _number(place), _number(place))
    return _pull(lambda x: network(x, {})[0].to(x.dtype), inputs, place)


def conv2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With a bias where there is one."""
    W, bias = inputs["W"], "b" in inputs
    layer = conv.Conv2d(W.shape[1], W.shape[0], settings["window"], bias, _master(inputs, "W"))
    _set(layer.weight, W)
    if layer.bias is not None:
        _set(layer.bias, inputs["b"])
    outputs = _pull(_on(layer, place), inputs, place) | {"dW": _take(layer.weight.grad)}
    return outputs | ({} if layer.bias is None else {"db": _take(layer.bias.grad)})


def max_pool2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Images."""
    return _pull(conv.MaxPool2d(settings["window"]), inputs, place)


def _norm_module(inputs: Inputs, settings: Settings, place: Place, manual: bool) -> norm.BatchNorm:
    gamma = inputs["gamma"]
    momentum = settings.get("momentum", 0.0)
    layer = norm.BatchNorm(gamma.size, settings["eps"], momentum, manual, _master(inputs, "gamma"))
    _set(layer.gamma, gamma)
    _set(layer.beta, inputs["beta"])
    found: norm.BatchNorm = _on(layer, place)
    return found


def _batch_norm(manual: bool) -> Subject:
    def subject(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        layer = _norm_module(inputs, settings, place, manual)
        statistics: dict[str, Tensor] = {}

        def forward(x: Tensor) -> Tensor:
            y, mu, variance = layer(x)
            unbiased = norm.unbiased(variance, x.numel() // layer.gamma.numel())
            for name, now in (("running_mean", mu), ("running_var", unbiased)):
                statistics[name] = layer.update(_put(inputs[name], place), now)
            return y

        outputs = _pull(forward, inputs, place)
        outputs |= {"dgamma": _take(layer.gamma.grad), "dbeta": _take(layer.beta.grad)}
        return outputs | {name: _take(value) for name, value in statistics.items()}

    return subject


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""
    layer = _norm_module(inputs, settings, place, manual=False)
    mean, variance = (_put(inputs[name], place) for name in ("running_mean", "running_var"))
    return {"y": _take(layer.evaluate(_put(inputs["x"], place).to(_number(place)), mean, variance))}


def linear_norm(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Linear, then batch norm by the batch's statistics, its backward by autograd."""
    layer, after = _linear_module(inputs, place), _norm_module(inputs, settings, place, manual=False)
    outputs = _pull(lambda x: after(layer(x))[0], inputs, place)
    return outputs | {"dW": _take(layer.weight.grad), "db": _take(layer.bias.grad)}


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """torch's softmax, which the squared error is made of."""
    outputs = _pull(lambda s: torch.softmax(s, dim=1), inputs, place, "s")
    return {"p": outputs["y"], "ds": outputs["dx"]}


def _loss(kind: str) -> Subject:
    def subject(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        s = _put(inputs["s"], place).requires_grad_()
        labels = _put(inputs["labels"], place).long()
        with _context(place):
            losses = loss.per_sample(kind, s, labels, settings.get("smoothing", 0.0))
            losses.mean().backward()
        return {"L": _take(losses), "ds": _take(s.grad)}

    return subject


def l2(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """One weight."""
    W = _put(inputs["W"], place).requires_grad_()
    penalty = loss.l2_penalty([W], settings["l2"])
    penalty.backward()
    return {"penalty": _take(penalty).reshape(1), "dW": _take(W.grad)}


def optimizer(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Several steps; the moments start at zero."""
    o = settings["optimization"]
    theta = nn.Parameter(_put(inputs["theta"].copy(), place))
    running = optim.create(o, [theta])
    history = []
    for t, eta in enumerate(settings["learning_rates"]):
        optim.set_learning_rate(running, float(eta))
        theta.grad = _put(inputs["g"][t].copy(), place)
        running.step()
        slots = optim.get_slots(running, theta, optimizer_slots(o))
        history.append({"theta": _take(theta)} | {name: _take(slot) for name, slot in slots.items()})
    return {name: np.stack([row[name] for row in history]) for name in history[0]}


def augmentation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """uint8 images, carried as floating numbers."""
    shifts, flips = (None if key not in inputs else _put(inputs[key], place) for key in ("shifts", "flips"))
    y = augment.augment(_put(inputs["images"], place), shifts, flips, settings.get("border", 0))
    return {"y": carried(_take(y))}


SUBJECTS: dict[str, Subject] = {
    "linear": linear,
    "leaky_relu": leaky_relu,
    "dropout": dropout,
    "flatten": flatten,
    "conv2d": conv2d,
    "max_pool2d": max_pool2d,
    "batch_norm_manual": _batch_norm(True),
    "batch_norm_autodiff": _batch_norm(False),
    "batch_norm_evaluate": batch_norm_evaluate,
    "linear_norm": linear_norm,
    "softmax": softmax,
    "cross_entropy": _loss("cross_entropy"),
    "squared_error": _loss("squared_error"),
    "hinge": _loss("hinge"),
    "l2": l2,
    "optimizer": optimizer,
    "initial_parameters": whole.initial_parameters("torch"),
    "augmentation": augmentation,
    "preprocessing": whole.preprocessing("torch"),
}
