"""Which rule an optimizer follows, found from what it does: its form, its numbers, its rates and decays.

It is run on gradients made for this: sizes from 1e-8 to 1, so that an eps shows wherever it stands. For a
form and its numbers, the rate and the decay of each step and parameter follow by linear least squares; the
numbers by Levenberg and Marquardt's method (Marquardt 1963), in their logarithms. A form is found only where
it agrees to EXACT, which no other form of the family does on these gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.adapters import thinned
from parity.verification.case import generator
from parity.verification.place import Place
from parity.verification.side import Arrays
from parity.verification.update.history import History, Updater
from parity.verification.update.rules import COUPLED, KNOWN, STARTS, Data, Form, Settings, directions

EXACT = 1e-8
SMALL_NORM = 0.05
"""Of probing gradients: below what is usually clipped."""
ROUNDS = 40
ONE_MINUS = ("momentum", "beta1", "beta2", "damping")


@dataclass(frozen=True, eq=False)
class Found:
    """A form that agrees, with its numbers; rates and decays by step and parameter."""

    form: Form
    settings: Settings
    rates: Array
    decays: Array
    off: float
    """The largest error, of a parameter's largest change."""


def observe(
    updater: Updater, shapes: Mapping[str, tuple[int, ...]], steps: int, norms: Sequence[float]
) -> Data:
    """One run in float64 on probing gradients whose norms are given."""
    parameters = {key: _wide("theta", key, shape, 6.0) for key, shape in shapes.items()}
    gradients = []
    for t in range(steps):
        drawn = {key: _wide(f"g{t}", key, shape, 8.0) for key, shape in shapes.items()}
        size = np.sqrt(sum(float(np.sum(g * g)) for g in drawn.values()))
        gradients.append({key: g * (norms[t % len(norms)] / size) for key, g in drawn.items()})
    stepper, history = updater.start(parameters, Place("float64")), History()
    for t, row in enumerate(gradients, start=1):
        history.take(stepper(t, row), shapes, updater)
    return _data(parameters, gradients, history, shapes)


def _wide(what: str, key: str, shape: tuple[int, ...], decades: float) -> Array:
    rng = generator("probe", what, key)
    return np.asarray(rng.choice([-1.0, 1.0], size=shape) * 10 ** -rng.uniform(0, decades, size=shape))


def _data(
    parameters: Arrays, gradients: Sequence[Arrays], history: History, shapes: Mapping[str, tuple[int, ...]]
) -> Data:
    several = [key for key in shapes if parameters[key].size > 2] or list(
        shapes
    )  # rate and decay: two unknowns

    def row(arrays: Mapping[str, Array]) -> Array:
        return np.concatenate([thinned(key, arrays[key]).reshape(-1) for key in several]).astype(np.float64)

    after = [row({key: history.parameters[key][t] for key in several}) for t in range(len(gradients))]
    thetas = np.stack([row(parameters), *after])
    sizes = [thinned(key, parameters[key]).size for key in several]
    norms = [np.sqrt(sum(float(np.sum(g * g)) for g in one.values())) for one in gradients]
    matrix = np.repeat([len(shapes[key]) >= 2 for key in several], sizes)
    firsts = np.cumsum([0, *sizes[:-1]])
    return Data(
        np.stack([row(g) for g in gradients]),
        thetas[:-1],
        np.diff(thetas, axis=0),
        np.array(norms),
        matrix,
        firsts,
    )


def projected(form: Form, s: Settings, data: Data) -> tuple[Array, Array, Array]:
    """What is left of the changes, over each parameter's largest; the rates and the decays."""
    with np.errstate(all="ignore"):
        d, change = directions(form, s, data)
        first, theta = data.firsts, data.before

        def sums(a: Array, b: Array) -> Array:
            return np.add.reduceat(a * b, first, axis=1)

        dd, dt, tt, dc, tc = (
            sums(d, d),
            sums(d, theta),
            sums(theta, theta),
            sums(d, change),
            sums(theta, change),
        )
        det = dd * tt - dt * dt
        good = det > 1e-12 * dd * tt  # not of a parameter with one element
        rates = np.where(good, -(tt * dc - dt * tc) / det, -dc / dd)
        decays = np.where(good, -(dd * tc - dt * dc) / det, 0.0)
        each = np.diff([*first, d.shape[1]])
        left = change + np.repeat(rates, each, axis=1) * d + np.repeat(decays, each, axis=1) * theta
        size = np.maximum.reduceat(np.abs(data.change).max(axis=0), first)
        return left / np.repeat(np.where(size > 0, size, 1.0), each), rates, decays


def fitted(form: Form, start: Settings, data: Data) -> Found | None:
    """The form with the numbers that agree best; None where its numbers run away."""
    names = form.settings
    x = np.array([_inner(name, start.get(name, STARTS[name])) for name in names])

    def left(at: Array) -> Array:
        numbers = {name: _outer(name, value) for name, value in zip(names, at, strict=True)}
        return projected(form, numbers, data)[0].reshape(-1)

    best = marquardt(left, x) if names else x
    numbers = {name: _outer(name, value) for name, value in zip(names, best, strict=True)}
    off, rates, decays = projected(form, numbers, data)
    worst = float(np.abs(off).max())
    return Found(form, numbers, rates, decays, worst) if np.isfinite(worst) else None


def marquardt(left: Callable[[Array], Array], x: Array) -> Array:
    """The x that makes the sum of squares least, from a start."""
    r, damping = left(x), 1e-3
    if not np.isfinite(r).all():
        return x
    for k in range(ROUNDS):
        step = 1e-6
        jacobian = np.stack(
            [(left(x + step * e) - left(x - step * e)) / (2 * step) for e in np.eye(len(x))], 1
        )
        if not np.isfinite(jacobian).all():
            return x
        normal, slope, before = jacobian.T @ jacobian, jacobian.T @ r, float(r @ r)
        for _ in range(8):
            change = np.linalg.lstsq(
                normal + damping * np.diag(np.diag(normal) + 1e-300), -slope, rcond=None
            )[0]
            there = x + np.clip(change, -3, 3)
            new = left(there)
            if np.isfinite(new).all() and float(new @ new) < before:
                x, r, damping = there, new, damping / 10
                break
            damping *= 10
        else:
            return x
        if np.abs(r).max() < 1e-13 or float(r @ r) > (0.8 if k > 4 else 0.9999) * before:
            return x
    return x


def _inner(name: str, value: float) -> float:
    value = 1 - value if name in ONE_MINUS else value
    return float(np.log(max(value, 1e-30)))


def _outer(name: str, value: float) -> float:
    found = float(np.exp(min(value, 60.0)))
    return 1 - found if name in ONE_MINUS else found


def identified(
    updater: Updater, shapes: Mapping[str, tuple[int, ...]], steps: int, near: Found | None = None
) -> Found | None:
    """The rule that an optimizer follows; `near`: one that it should follow, whose neighbours come first, and
    whose rates it should have.
    """
    data = observe(updater, shapes, steps, [SMALL_NORM])
    found = _searched(data, near)
    if found is None or found.off > EXACT:
        return found
    return _with_clip(updater, shapes, steps, found)


def _searched(data: Data, near: Found | None) -> Found | None:
    """The first form that agrees, and has the rates of `near`; or without these; or the closest."""
    agreeing: list[Found] = []
    others: list[Found] = []
    for forms in _stages(near):
        for form in forms:
            start = {**STARTS, **(near.settings if near else {})}
            found = fitted(form, start, data)
            if form.kind == "adagrad" and (found is None or found.off > EXACT):
                found = fitted(form, {**start, "eps": 0.1}, data)
            if found is None or found.off > EXACT:
                others += [found] if found else []
            elif near is None or same(found.rates, near.rates):
                return found
            else:
                agreeing.append(found)
        if agreeing:
            return agreeing[0]
    return min(others, key=lambda one: one.off, default=None)


def same(a: Array, b: Array) -> bool:
    """Rates that agree."""
    return a.shape == b.shape and bool(np.abs(a - b).max() <= 1e-6 * np.abs(b).max())


def _stages(near: Found | None) -> Iterator[Iterable[Form]]:
    """Forms to try, together where one that agrees may have a better one beside it."""
    if near is None:
        coupled = [
            replace(form, coupled=where) for where in COUPLED[1:] for form in KNOWN if form.kind != "sgd"
        ]
        yield from ([form] for form in dict.fromkeys([*KNOWN, *coupled]))
        yield from ([one] for form in KNOWN for one in form.neighbours())
        return
    own = replace(near.form, clip="none")
    ones = list(own.neighbours())
    yield [own, *ones]
    yield dict.fromkeys(two for one in ones for two in one.neighbours())
    yield KNOWN


def _with_clip(
    updater: Updater, shapes: Mapping[str, tuple[int, ...]], steps: int, found: Found
) -> Found | None:
    """Large gradients tell whether they are clipped, and at what; ones near the threshold how."""
    rates = found.rates, found.decays
    data = observe(updater, shapes, steps, [1e3, 4e3, 2e3])
    if _left(found.form, found.settings, data, rates) <= EXACT:
        return found
    for clip in ("the norm", "each value"):
        form, numbers = replace(found.form, clip=clip), dict(found.settings)
        for start in (1.0, 0.1, 10.0):
            at = marquardt(partial(_at_clip, form, numbers, data, rates), np.array([np.log(start)]))
            numbers["clip"] = float(np.exp(at[0]))
            if _left(form, numbers, data, rates) <= 1e-6:
                near = observe(updater, shapes, steps, [3 * numbers["clip"], 9 * numbers["clip"]])
                return _how_clipped(form, numbers, near, rates, found)
    return None


def _at_clip(
    form: Form, numbers: dict[str, float], data: Data, rates: tuple[Array, Array], x: Array
) -> Array:
    return _lefts(form, {**numbers, "clip": float(np.exp(x[0]))}, data, rates)


def _how_clipped(
    form: Form, numbers: dict[str, float], data: Data, rates: tuple[Array, Array], found: Found
) -> Found:
    forms = [form] if form.clip == "each value" else [form, replace(form, clip="the norm + 1e-6")]
    tried = []
    for one in forms:
        at = marquardt(
            partial(_at_clip, one, numbers, data, rates),
            np.array([np.log(numbers["clip"])]),
        )
        own = {**numbers, "clip": float(np.exp(at[0]))}
        tried.append(Found(one, own, *rates, off=_left(one, own, data, rates)))
    best = min(tried, key=lambda one: one.off)
    return replace(best, off=max(best.off, found.off))


def _lefts(form: Form, s: Settings, data: Data, rates: tuple[Array, Array]) -> Array:
    with np.errstate(all="ignore"):
        d, change = directions(form, s, data)
        each = np.diff([*data.firsts, d.shape[1]])
        rate, decay = (np.repeat(one, each, axis=1) for one in rates)
        size = np.maximum.reduceat(np.abs(data.change).max(axis=0), data.firsts)
        left = (change + rate * d + decay * data.before) / np.repeat(np.where(size > 0, size, 1.0), each)
    return np.asarray(left.reshape(-1))


def _left(form: Form, s: Settings, data: Data, rates: tuple[Array, Array]) -> float:
    return float(np.abs(_lefts(form, s, data, rates)).max())
