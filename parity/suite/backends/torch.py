"""torch modules, autograd and torch's own optimizers, run eagerly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from parity.suite.backends import Computation, whole
from parity.suite.backends.whole import carried
from parity.suite.norm import RUNNING
from parity.verification.adapters import Signature, Torch
from parity.verification.adapters.torch import implementation, precision
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


def _layer(function: Callable[..., Tensor], *names: str, fixed: tuple[str, ...] = ()) -> Computation:
    """Through the library's adapter: `function(settings, *tensors)`, and its gradient by each floating array
    of `names` that there is but for the `fixed` ones. Parameters stay float32 where x is bfloat16.
    """

    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        order = tuple(name for name in names if name in inputs)
        followed = tuple(name for name in order if inputs[name].dtype.kind == "f" and name not in fixed)
        masters = [torch.from_numpy(inputs[name]).dtype for name in order[1:]]

        def of(x: Tensor, *rest: Tensor) -> Tensor:
            held = (tensor.to(dtype) for tensor, dtype in zip(rest, masters, strict=True))
            return function(settings, x, *held)

        one = implementation("torch", Torch(of), Signature(order, (), followed))
        return one.pull({name: inputs[name] for name in order}, inputs["dy"], place)

    return computation


def _conv2d(settings: Settings, x: Tensor, W: Tensor, *b: Tensor) -> Tensor:
    kernel = W.contiguous(memory_format=torch.channels_last)
    return conv.conv2d(x, kernel, b[0] if b else None, settings["window"])


def _linear_norm(settings: Settings, x: Tensor, W: Tensor, b: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Linear, then batch norm by the batch's statistics, its backward by autograd."""
    return _norm_module(gamma, beta, settings, manual=False)(dense.linear(x, W, b), Given())


linear = _layer(lambda settings, x, W, b: dense.linear(x, W, b), "x", "W", "b")
leaky_relu = _layer(lambda settings, x: dense.leaky_relu(x, settings["slope"]), "x")
dropout = _layer(lambda settings, x, keep: dense.dropout(x, keep, settings["rate"]), "x", "keep")
flatten = _layer(lambda settings, x: conv.flatten(x), "x")
conv2d = _layer(_conv2d, "x", "W", "b")
max_pool2d = _layer(lambda settings, x: conv.max_pool2d(x, settings["window"]), "x")
linear_norm = _layer(_linear_norm, "x", "W", "b", "gamma", "beta", fixed=("gamma", "beta"))


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By another name for y."""
    found = _layer(lambda settings, s: loss.softmax(s), "s")({**inputs, "dy": inputs["dp"]}, settings, place)
    return {"p": found["y"], "ds": found["ds"]}


def _norm_module(gamma: Tensor, beta: Tensor, settings: Settings, manual: bool) -> norm.BatchNorm:
    described = BatchNorm("norm", gamma.numel(), settings["eps"], settings.get("momentum", 0.0), manual)
    layer = norm.BatchNorm(described, gamma.dtype)
    layer.gamma, layer.beta = nn.Parameter(gamma.detach()), nn.Parameter(beta.detach())
    return layer


def _batch_norm(manual: bool) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        given = {name: _put(array, place) for name, array in inputs.items()}
        layer = _norm_module(given["gamma"], given["beta"], settings, manual)
        x, held = given["x"].to(_number(place)).requires_grad_(), Given(statistics=_running(given))
        with precision(place):
            y = layer(x, held)
            y.backward(given["dy"].to(y.dtype))
        found = {"y": y, "dx": x.grad, "dgamma": layer.gamma.grad, "dbeta": layer.beta.grad, **held.updated}
        return {name: _take(tensor) for name, tensor in found.items()}

    return computation


def _running(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: given[name] for name in RUNNING}


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""
    given = {name: _put(array, place) for name, array in inputs.items()}
    layer = _norm_module(given["gamma"], given["beta"], settings, manual=False)
    held = Given(statistics=_running(given), by_batch=False)
    return {"y": _take(layer(given["x"].to(_number(place)), held))}


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
