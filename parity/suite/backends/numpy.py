"""The reference: hand-written forward and backward functions."""

from __future__ import annotations

import numpy as np

from numpy_ref import augment, dense, fast, loss, norm, optim
from numpy_ref.model import Network
from parity.suite.backends import Computation, whole
from parity.suite.backends.whole import carried
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.layers import Conv2d, Flatten, Window
from triptych.describe.spec import Device


def devices() -> list[Device]:
    """The host."""
    return ["cpu"]


def linear(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """See parity.suite.dense; so for all below."""
    y, cache = dense.linear(inputs["x"], inputs["W"], inputs["b"])
    dx, dW, db = dense.linear_backward(inputs["dy"], cache, inputs["W"])
    assert dx is not None
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def leaky_relu(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Any shape."""
    y, cache = fast.leaky_relu(inputs["x"], settings["slope"])
    return {"y": y, "dx": fast.leaky_relu_backward(inputs["dy"], cache, settings["slope"])}


def dropout(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With the mask given."""
    keep, rate = inputs["keep"], settings["rate"]
    y = dense.dropout(inputs["x"], keep, rate)
    return {"y": y, "dx": dense.dropout_backward(inputs["dy"], keep, rate)}


def conv2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With a bias where there is one."""
    y, cache = fast.conv2d(inputs["x"], inputs["W"], inputs.get("b"), settings["window"])
    dx, dW, db = fast.conv2d_backward(inputs["dy"], cache, inputs["W"])
    assert dx is not None
    return {"y": y, "dx": dx, "dW": dW} | ({"db": db} if "b" in inputs else {})


def max_pool2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Images."""
    y, cache = fast.max_pool2d(inputs["x"], settings["window"])
    return {"y": y, "dx": fast.max_pool2d_backward(inputs["dy"], cache)}


def batch_norm_manual(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Training: by the batch's statistics."""
    x, gamma = inputs["x"], inputs["gamma"]
    y, cache, mu, variance = norm.batch_norm(x, gamma, inputs["beta"], settings["eps"])
    dx, dgamma, dbeta = norm.batch_norm_backward(inputs["dy"], cache)
    unbiased, momentum = norm.unbiased(variance, x.size // gamma.size), settings["momentum"]
    return {
        "y": y,
        "dx": dx,
        "dgamma": dgamma,
        "dbeta": dbeta,
        "running_mean": norm.running_update(inputs["running_mean"], mu, momentum),
        "running_var": norm.running_update(inputs["running_var"], unbiased, momentum),
    }


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""
    x, gamma, beta = inputs["x"], inputs["gamma"], inputs["beta"]
    mean, variance = inputs["running_mean"], inputs["running_var"]
    return {"y": norm.normalize(x, gamma, beta, mean, variance, settings["eps"])}


def linear_norm(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Linear, then batch norm by the batch's statistics."""
    inner, cache = dense.linear(inputs["x"], inputs["W"], inputs["b"])
    y, norm_cache, _, _ = norm.batch_norm(inner, inputs["gamma"], inputs["beta"], settings["eps"])
    dinner, _, _ = norm.batch_norm_backward(inputs["dy"], norm_cache)
    dx, dW, db = dense.linear_backward(dinner, cache, inputs["W"])
    assert dx is not None
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Alone."""
    p = loss.softmax(inputs["s"])
    return {"p": p, "ds": loss.softmax_backward(inputs["dp"], p)}


def _loss(kind: str) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        rest = inputs["s"], inputs["labels"], settings.get("smoothing", 0.0)
        return {"L": loss.per_sample(kind, *rest), "ds": loss.per_sample_backward(kind, *rest)}

    return computation


def l2(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """One weight."""
    W = inputs["W"]
    return {
        "penalty": np.array([loss.l2_penalty([W], settings["l2"])], W.dtype),
        "dW": loss.l2_penalty_backward(W, settings["l2"]),
    }


def optimizer(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Several steps; the moments start at zero."""
    o, theta = settings["optimization"], inputs["theta"].copy()
    slots = {name: np.zeros_like(theta) for name in o.slots}
    history = []
    for t, eta in enumerate(settings["learning_rates"], start=1):
        optim.update(theta, inputs["g"][t - 1], slots, o, float(eta), t)
        history.append({"theta": theta.copy()} | {name: slot.copy() for name, slot in slots.items()})
    return {name: np.stack([row[name] for row in history]) for name in history[0]}


def flatten(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """As the network does it, behind a convolution of 1x1 that is the identity."""
    x, dy = inputs["x"], inputs["dy"]
    channels = x.shape[1]
    layers = (Conv2d("conv", channels, channels, Window((1, 1)), bias=False), Flatten("flatten"))
    identity = np.eye(channels, dtype=x.dtype)[:, :, None, None]
    network = Network(layers, {"conv.weight": identity})
    upstream: Outputs = {}
    y, cache = network.forward(x)
    network.backward(dy, cache, upstream)
    return {"y": y, "dx": upstream["conv"]}


def augmentation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """uint8 images, carried as floating numbers."""
    shifts, flips = inputs.get("shifts"), inputs.get("flips")
    return {"y": carried(augment.augment(inputs["images"], shifts, flips, settings.get("border", 0)))}


cross_entropy = _loss("cross_entropy")
squared_error = _loss("squared_error")
hinge = _loss("hinge")
initial_parameters = whole.initial_parameters("numpy")
preprocessing = whole.preprocessing("numpy")
