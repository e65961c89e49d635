"""In which terms two update rules differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.update.fit import EXACT, Found, same
from parity.verification.update.rules import Form

NAMES = {"sgd": "SGD", "momentum": "SGD with momentum", "rmsprop": "RMSprop", "adagrad": "Adagrad"}
TERMS = {
    "eps": "where eps stands",
    "corrected": "the bias correction",
    "largest": "the largest second moment (AMSGrad)",
    "buffer": "how the gradient enters the momentum buffer",
    "nesterov": "Nesterov's look-ahead",
    "inside": "whether the rate stands inside the momentum buffer",
    "clip": "clipping",
}
SAID = {
    "buffer": {"whole": "whole", "averaged": "times 1 - momentum",
               "damped after the first": "times 1 - dampening, but whole in the first step"},
    "clip": {"none": "none", "the norm": "by the norm", "the norm + 1e-6": "by the norm plus 1e-6",
             "each value": "of each value"},
}  # fmt: skip
NONE = 1e-6
"""Of a number that is 0."""
DIGITS = (("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8))


def name_of(found: Found) -> str:
    form = found.form
    if form.kind != "adam":
        return NAMES[form.kind]
    if abs(found.settings["beta1"]) < NONE:
        return "RMSprop" if form.corrected == "none" else "RMSprop with bias correction"
    return "NAdam" if form.nesterov else "Adam" if form.largest == "no" else "AMSGrad"


def described(found: Found, names: Sequence[str]) -> str:
    """A rule in one line."""
    rates = found.rates[:, 0]
    constant = bool(np.ptp(rates) <= 1e-6 * np.abs(rates).max())
    told = [f"rate {rates[0]:.6g}" if constant else f"rates {', '.join(f'{r:.4g}' for r in rates[:4])}, ..."]
    told += [f"{key} {value:.6g}" for key, value in found.settings.items() if key not in ("l2", "clip")]
    if "eps" in found.settings:
        told.append(f"eps {found.form.eps}")
    if found.form.kind == "adam":
        told.append(f"bias correction of {found.form.corrected}")
    told.append(f"weight decay {decay_of(found, names)}")
    if found.form.clip != "none":
        told.append(f"clipping {SAID['clip'][found.form.clip]}, {found.settings['clip']:.6g}")
    return f"{name_of(found)}, {', '.join(told)}"


def decay_of(found: Found, names: Sequence[str], other: Found | None = None) -> str:
    """Which decay it has; `other`: the reference, whose decay may be this one's times a rate."""
    if found.form.coupled != "none":
        return f"coupled (added to the gradient) {found.settings['l2']:.6g}, of {found.form.coupled}"
    rates, decays = found.rates, found.decays
    there = np.abs(decays).max(axis=0) > 1e-9 * np.abs(rates).max()
    if not there.any():
        return "none"
    some = rates[:, there] != 0
    with np.errstate(all="ignore"):
        share = np.where(some, decays[:, there] / rates[:, there], np.nan)
    where = (
        "" if there.all() else f", of {', '.join(n for n, t in zip(names, there, strict=True) if t)} alone"
    )
    alone = decays[:, there]
    by_rate, by_itself = (
        np.nanstd(share) <= 1e-6 * np.nanmean(np.abs(share)),
        alone.std() <= 1e-6 * abs(alone.mean()),
    )
    if by_rate and by_itself and other is not None:
        with np.errstate(all="ignore"):
            theirs = np.nanmax(np.where(other.rates != 0, other.decays / other.rates, np.nan))
        by_rate = abs(theirs - alone.mean()) > 1e-6 * abs(theirs)
    if by_rate:
        return f"decoupled {np.nanmean(share):.6g} times the rate{where}"
    if by_itself:
        return f"decoupled {alone.mean():.6g} and not times the rate{where}"
    first, last = decays[:, there][0, 0], decays[:, there][-1, 0]
    return f"decoupled, {first:.4g} in the first step, {last:.4g} in the last"


def differing(ours: Found, theirs: Found, names: Sequence[str]) -> list[str]:
    """Each term that differs, the reference's first."""
    a, b = ours.form, theirs.form
    if a.kind != b.kind or ("RMSprop" in name_of(ours)) != ("RMSprop" in name_of(theirs)):
        return [f"the rule: {name_of(ours)} in the reference, {name_of(theirs)} in the port"]
    if not same(theirs.rates, ours.rates) and same(theirs.rates, ours.rates * (1 - theirs.decays)):
        return ["the order: the port decays the parameters after the step, the reference before it"]
    if a.kind == "adagrad" and a.eps != b.eps:
        told = [f"{one.settings['eps']:.6g} {one.form.eps}" for one in (ours, theirs)]
        return [
            "where eps stands, or where the sum of squares starts (the two together are one number inside "
            "the "
            f"root): {told[0]} in the reference, {told[1]} in the port"
        ]
    found = [
        f"{term}: {_said(key, a)} in the reference, {_said(key, b)} in the port"
        for key, term in TERMS.items()
        if getattr(a, key) != getattr(b, key)
    ]
    decays = decay_of(ours, names), decay_of(theirs, names, ours)
    if decays[0] != decays[1]:
        found.append(f"weight decay: {decays[0]} in the reference, {decays[1]} in the port")
    for key in ours.settings:
        if key in theirs.settings and key != "l2" and not _close(ours.settings[key], theirs.settings[key]):
            found.append(
                f"{key}: {ours.settings[key]:.6g} in the reference, {theirs.settings[key]:.6g} in the port"
            )
    return found + list(_rates(ours, theirs, names))


def _said(key: str, form: Form) -> str:
    value = getattr(form, key)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return SAID.get(key, {}).get(value, value)


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(abs(a), abs(b))


def _rates(ours: Found, theirs: Found, names: Sequence[str]) -> Iterator[str]:
    a, b = ours.rates, theirs.rates
    if a.shape != b.shape or same(b, a):
        return
    if same(b[:-1], a[1:]):
        yield "the schedule: the port is one step ahead"
    elif same(b[1:], a[:-1]):
        yield "the schedule: the port is one step behind"
    elif same(b, -a):
        yield "the sign of the step: the port goes the other way"
    else:
        each = [not same(b[:, i : i + 1], a[:, i : i + 1]) for i in range(a.shape[1])]
        which = "" if all(each) else f" of {', '.join(n for n, e in zip(names, each, strict=True) if e)}"
        i = each.index(True)
        yield f"the rate{which}: {_row(a[:, i])} in the reference, {_row(b[:, i])} in the port"


def _row(rates: Array) -> str:
    if np.ptp(rates) <= 1e-6 * np.abs(rates).max():
        return f"{rates[0]:.6g}"
    return ", ".join(f"{rate:.4g}" for rate in rates[:4]) + ", ..."


def terms(ours: Found | None, theirs: Found | None, names: Sequence[str]) -> list[str]:
    """What is said under a failure."""
    if ours is None or ours.off > EXACT:
        return ["The reference follows none of the rules that are known here, so no term is named"]
    told = [f"The reference is {described(ours, names)}"]
    if theirs is None or theirs.off > EXACT:
        if theirs is None or theirs.off > 0.01:
            return [*told, "The port follows none of the rules that are known here, so no term is named"]
        digits = next((f" ({name}'s digits)" for name, u in DIGITS if theirs.off <= 8 * u), "")
        close = f"The port is close to {name_of(theirs)}, off by {theirs.off:.1g}{digits}"
        return [*told, close]
    found = differing(ours, theirs, names)
    told.append(f"The port equals {described(theirs, names)}")
    return [*(f"The term that differs: {one}" for one in found), *told]
