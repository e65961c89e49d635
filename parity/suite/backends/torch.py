"""torch modules, autograd and torch's own optimizers, run eagerly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from parity.suite.backends import Computation, whole
from parity.suite.backends.whole import carried
from parity.verification.adapters.torch import precision
from parity.verification.place import Inputs, Outputs, Place, Settings
from torch_models import augment, conv, dense, loss, norm, optim
from triptych.describe.given import Given
from triptych.describe.layers import BatchNorm
from triptych.describe.spec import Device


def devices() -> list[Device]:
    """The CPU, and a GPU where torch has one."""
    return ["cpu", "gpu"] if torch.cuda.is_available() else ["cpu"]


def default_products(item: str, device: Device) -> str:
    """torch's default on a GPU: TF32 in cuDNN's convolutions, not in other products
    (docs.pytorch.org/docs/stable/notes/numerical_accuracy.html).
    """
    return "tf32" if device == "gpu" and item.startswith("conv2d") else "float32"


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
    with precision(place):
        x = _put(inputs[name], place).to(_number(place)).requires_grad_()
        y = function(x)
        y.backward(_put(inputs["d" + ("p" if name == "s" else "y")], place).to(y.dtype))
    return {"y": _take(y), "dx": _take(x.grad)}


def _set(parameter: Tensor, array: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(array))


def linear(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """See parity.suite.dense; so for all below."""
    W, b = _parameters(inputs, place, "W", "b")
    outputs = _pull(lambda x: dense.linear(x, W, b), inputs, place)
    return outputs | {"dW": _take(W.grad), "db": _take(b.grad)}


def _parameters(inputs: Inputs, place: Place, *names: str) -> list[Tensor]:
    """In the dtype that they come in: float32 for bfloat16."""
    return [_put(inputs[name], place).requires_grad_() for name in names]


def leaky_relu(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Any shape."""
    return _pull(lambda x: dense.leaky_relu(x, settings["slope"]), inputs, place)


def dropout(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With the mask given."""
    keep = _put(inputs["keep"], place)
    return _pull(lambda x: dense.dropout(x, keep, settings["rate"]), inputs, place)


def flatten(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Channel by channel."""
    return _pull(conv.flatten, inputs, place)


def conv2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With a bias where there is one."""
    (W, *b) = _parameters(inputs, place, "W", *(name for name in ("b",) if name in inputs))
    kernel = W.contiguous(memory_format=torch.channels_last)
    offset = b[0] if b else None
    outputs = _pull(lambda x: conv.conv2d(x, kernel, offset, settings["window"]), inputs, place)
    return outputs | {"dW": _take(W.grad)} | ({"db": _take(offset.grad)} if offset is not None else {})


def max_pool2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Images."""
    return _pull(lambda x: conv.max_pool2d(x, settings["window"]), inputs, place)


def _norm_module(inputs: Inputs, settings: Settings, place: Place, manual: bool) -> norm.BatchNorm:
    gamma = inputs["gamma"]
    described = BatchNorm("norm", gamma.size, settings["eps"], settings.get("momentum", 0.0), manual)
    layer = norm.BatchNorm(described, torch.from_numpy(gamma).dtype)
    _set(layer.gamma, gamma)
    _set(layer.beta, inputs["beta"])
    found: norm.BatchNorm = layer.to("cuda" if place.device == "gpu" else "cpu")
    return found


def _batch_norm(manual: bool) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        layer = _norm_module(inputs, settings, place, manual)
        given = Given(
            statistics={name: _put(inputs[name], place) for name in ("running_mean", "running_var")}
        )
        outputs = _pull(lambda x: layer(x, given), inputs, place)
        outputs |= {"dgamma": _take(layer.gamma.grad), "dbeta": _take(layer.beta.grad)}
        return outputs | {name: _take(value) for name, value in given.updated.items()}

    return computation


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""
    layer = _norm_module(inputs, settings, place, manual=False)
    running = {name: _put(inputs[name], place) for name in ("running_mean", "running_var")}
    x = _put(inputs["x"], place).to(_number(place))
    return {"y": _take(layer(x, Given(statistics=running, by_batch=False)))}


def linear_norm(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Linear, then batch norm by the batch's statistics, its backward by autograd."""
    W, b = _parameters(inputs, place, "W", "b")
    after = _norm_module(inputs, settings, place, manual=False)
    outputs = _pull(lambda x: after(dense.linear(x, W, b), Given()), inputs, place)
    return outputs | {"dW": _take(W.grad), "db": _take(b.grad)}


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Alone."""
    outputs = _pull(loss.softmax, inputs, place, "s")
    return {"p": outputs["y"], "ds": outputs["dx"]}


def _loss(kind: str) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        s = _put(inputs["s"], place).requires_grad_()
        labels = _put(inputs["labels"], place).long()
        with precision(place):
            losses = loss.per_sample(kind, s, labels, settings.get("smoothing", 0.0))
            losses.mean().backward()
        return {"L": _take(losses), "ds": _take(s.grad)}

    return computation


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
        slots = optim.get_slots(running, theta, o.slots)
        history.append({"theta": _take(theta)} | {name: _take(slot) for name, slot in slots.items()})
    return {name: np.stack([row[name] for row in history]) for name in history[0]}


def augmentation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """uint8 images, carried as floating numbers."""
    shifts, flips = (None if key not in inputs else _put(inputs[key], place) for key in ("shifts", "flips"))
    y = augment.augment(_put(inputs["images"], place), shifts, flips, settings.get("border", 0))
    return {"y": carried(_take(y))}


batch_norm_manual = _batch_norm(True)
batch_norm_autodiff = _batch_norm(False)
cross_entropy = _loss("cross_entropy")
squared_error = _loss("squared_error")
hinge = _loss("hinge")
initial_parameters = whole.initial_parameters("torch")
preprocessing = whole.preprocessing("torch")
