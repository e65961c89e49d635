"""torch modules, autograd and torch's own optimizers, run eagerly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from parity.suite.backends import Computation, whole
from parity.suite.backends.differentiated import Framework, computations
from parity.suite.backends.whole import carried
from parity.suite.norm import RUNNING
from parity.verification.adapters import Torch
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


@contextmanager
def unfused() -> Iterator[None]:
    """On a GPU some of cuDNN's algorithms add in an order that changes from call to call: a step's gradients
    would not be those that its trace recorded.
    """
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def _put(array: np.ndarray, place: Place) -> Tensor:
    device = "cuda" if place.device == "gpu" else "cpu"
    return torch.from_numpy(array).to(device)


def _take(tensor: Tensor | None) -> np.ndarray:
    assert tensor is not None, "no gradient came back"
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy().copy()


def _norm_module(gamma: Tensor, beta: Tensor, settings: Settings, manual: bool) -> norm.BatchNorm:
    described = BatchNorm("norm", gamma.numel(), settings["eps"], settings.get("momentum", 0.0), manual)
    layer = norm.BatchNorm(described, gamma.dtype)
    # Contiguous, as a module's own are: torch's bfloat16 batch norm misreads others on a CPU.
    layer.gamma, layer.beta = (nn.Parameter(a.detach().contiguous()) for a in (gamma, beta))
    return layer


def _batch_norm(manual: bool) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        given = {name: _put(array, place) for name, array in inputs.items()}
        layer = _norm_module(given["gamma"], given["beta"], settings, manual)
        x, held = (
            given["x"].to(getattr(torch, place.number)).requires_grad_(),
            Given(statistics=_running(given)),
        )
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
    return {"y": _take(layer(given["x"].to(getattr(torch, place.number)), held))}


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


DIFFERENTIATED = computations(
    Framework(
        lambda function, place: Torch(function),
        lambda tensor, dtype: tensor.to(getattr(torch, dtype)),
        *(dense, conv, loss),
        lambda settings, x, gamma, beta: _norm_module(gamma, beta, settings, manual=False)(x, Given()),
        kernel=lambda W: W.contiguous(memory_format=torch.channels_last),
    )
)
batch_norm_manual, batch_norm_autodiff = _batch_norm(True), _batch_norm(False)
initial_parameters = whole.initial_parameters("torch")
preprocessing = whole.preprocessing("torch")
