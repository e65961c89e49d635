"""A family of update rules: what a step of each does to the gradient, by terms that can change one by one.

    theta_t = theta_(t-1) - rate_t d_t - decay_t theta_(t-1)
    g       = clip(gradient) + l2 theta                                 (coupled decay, of all or of matrices)
    sgd       d = g
    momentum  buf = mu buf + g, or + (1 - mu) g, or + (1 - damping) g but the first whole;  d = buf, or
              g + mu buf (Nesterov); or the rate inside, buf = mu buf + rate_t g
    adam      m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  d = m' / root(v'), ' the bias correction
    amsgrad   the largest v, of before or after its correction, in the place of v
    rmsprop   v = b2 v + (1 - b2) g^2;  d = g / root(v)
    adagrad   s = s + g^2;  d = g / root(s); a sum that starts above 0 is an eps inside the root
    root(v)   sqrt(v) + eps, or sqrt(v + eps); of adam also with eps before the correction

Rates and decays of a step are whatever fits best (`fit`): so a schedule need not be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from parity.bounds.rounding import Array

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Form:
    """One of each term."""

    kind: str
    eps: str = "outside the root"
    corrected: str = "both moments"
    largest: str = "no"
    buffer: str = "whole"
    nesterov: bool = False
    inside: bool = False
    coupled: str = "none"
    clip: str = "none"

    @property
    def settings(self) -> list[str]:
        """Numbers that the form has, beside rates and decays."""
        own = {
            "sgd": [],
            "momentum": ["momentum"],
            "adam": ["beta1", "beta2", "eps"],
            "rmsprop": ["beta2", "eps"],
            "adagrad": ["eps"],
        }[self.kind]
        more = [("damping", self.buffer == "damped after the first"), ("l2", self.coupled != "none")]
        more += [("clip", self.clip != "none")]
        return [*own, *(name for name, there in more if there)]

    def neighbours(self) -> Iterator[Form]:
        """With one term changed."""
        for name, values in CHOICES[self.kind].items():
            for value in values:
                if value != getattr(self, name):
                    yield replace(self, **{name: value})  # type: ignore[arg-type]


EPS = ("outside the root", "inside the root")
COUPLED = ("none", "all parameters", "matrices only")
CHOICES: dict[str, dict[str, tuple[object, ...]]] = {
    "sgd": {},
    "momentum": {
        "buffer": ("whole", "averaged", "damped after the first"),
        "nesterov": (False, True),
        "inside": (False, True),
        "coupled": COUPLED,
    },
    "adam": {
        "eps": (*EPS, "outside the root, before the correction"),
        "corrected": ("both moments", "none", "the first moment only", "the second moment only",
                      "both, one step ahead", "both, one step behind"),
        "largest": ("no", "before its correction", "after its correction"),
        "nesterov": (False, True),
        "coupled": COUPLED,
    },
    "rmsprop": {"eps": EPS, "corrected": ("none", "both moments"), "coupled": COUPLED},
    "adagrad": {"eps": EPS, "coupled": COUPLED},
}  # fmt: skip
KNOWN = (
    Form("sgd"),
    Form("momentum"),
    Form("momentum", nesterov=True),
    Form("adam"),
    Form("adam", largest="before its correction"),
    Form("adam", largest="after its correction"),
    Form("adam", nesterov=True),
    Form("adagrad"),
    Form("adagrad", "inside the root"),
    Form("rmsprop", corrected="none"),
    Form("rmsprop", "inside the root", corrected="none"),
    Form("adam", "inside the root"),
)
"""What a reference is looked for among, each without and with coupled decay; then with one term changed."""
STARTS = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "damping": 0.1, "l2": 1e-2, "clip": 1.0}
"""Where a search begins."""


@dataclass(frozen=True, eq=False)
class Data:
    """What went in and came out, by step (T) and element (n) of all parameters in a row."""

    gradients: Array
    before: Array
    change: Array
    norms: Array
    """Of all gradients of a step, with those that are not looked at."""
    matrix: Array
    """Which elements (n) are of a parameter with at least two axes."""
    firsts: Array
    """Where each parameter begins."""


def directions(form: Form, s: Settings, data: Data) -> tuple[Array, Array]:
    """d of each step, and the change that rate and decay have to explain."""
    g, change = clipped(form, s, data), data.change
    if form.coupled != "none":
        g = g + s["l2"] * np.where(data.matrix | (form.coupled == "all parameters"), data.before, 0.0)
    if form.kind == "sgd":
        return g, change
    if form.kind == "momentum":
        return _momentum(form, s, g, change)
    found, m, v, largest = np.zeros_like(g), np.zeros(g.shape[1]), np.zeros(g.shape[1]), np.zeros(g.shape[1])
    for t, row in enumerate(g, start=1):
        if form.kind == "adam":
            m = s["beta1"] * m + (1 - s["beta1"]) * row
        v = v + row * row if form.kind == "adagrad" else s["beta2"] * v + (1 - s["beta2"]) * row * row
        c1, c2 = _corrections(form, s, t)
        second = v / c2
        if form.largest == "before its correction":
            largest = np.maximum(largest, v)
            second = largest / c2
        elif form.largest == "after its correction":
            second = largest = np.maximum(largest, second)
        top = row if form.kind != "adam" else m / c1
        if form.nesterov:
            top = s["beta1"] * m / (1 - s["beta1"] ** (t + 1)) + (1 - s["beta1"]) * row / c1
        found[t - 1] = top / _root(form, s["eps"], second, c2)
    return found, change


def clipped(form: Form, s: Settings, data: Data) -> Array:
    if form.clip == "none":
        return data.gradients
    if form.clip == "each value":
        return np.clip(data.gradients, -s["clip"], s["clip"])
    norms = data.norms + (1e-6 if form.clip == "the norm + 1e-6" else 0.0)
    return data.gradients * np.minimum(1.0, s["clip"] / norms)[:, None]


def _momentum(form: Form, s: Settings, g: Array, change: Array) -> tuple[Array, Array]:
    mu = s["momentum"]
    if form.inside:  # buf is the last change itself
        before = np.concatenate([np.zeros_like(change[:1]), change[:-1]])
        return (1 + mu if form.nesterov else 1) * g, change - mu * before
    buffer, found = np.zeros(g.shape[1]), np.zeros_like(g)
    share = {"whole": 1.0, "averaged": 1 - mu}.get(form.buffer, 1 - s.get("damping", 0.0))
    for t, row in enumerate(g):
        buffer = mu * buffer + (row if t == 0 and "first" in form.buffer else share * row)
        found[t] = row + mu * buffer if form.nesterov else buffer
    return found, change


def _corrections(form: Form, s: Settings, t: int) -> tuple[float, float]:
    b1, b2 = s.get("beta1", 0.0), s.get("beta2", 0.0)
    if form.kind == "adagrad":
        return 1.0, 1.0
    k = t + ("ahead" in form.corrected) - ("behind" in form.corrected and t > 1)
    first = form.corrected not in ("none", "the second moment only")
    second = form.corrected not in ("none", "the first moment only")
    return (1 - b1**k if first else 1.0), (1 - b2**k if second else 1.0)


def _root(form: Form, eps: float, second: Array, c2: float) -> Array:
    if form.eps == "inside the root":
        return np.sqrt(second + eps)
    if "before" in form.eps:
        return np.sqrt(second) + eps / np.sqrt(c2)
    return np.sqrt(second) + eps
