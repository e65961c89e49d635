"""Weights between canonical arrays, torch and Flax, in memory: to_torch, from_torch, to_flax, from_flax.

Canonical arrays are a flat dict of NumPy arrays, `"<layer>.<parameter>"` to Linear weights (out, in),
convolution weights (out, in, kh, kw), bias, gamma, beta, running_mean, running_var; `canonical_of` takes
them out of a checkpoint's state. Every function moves and renames numbers and changes no bit of them.

A layer is known by its class where a model is given; give the model rather than its state_dict. All four take
the keyword arguments in `Options`, and raise UserError where the two sides do not fit, or fit in several
ways; the message lists both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from parity.convert import match, plan
from parity.convert.plan import Options, Side
from parity.convert.units import Array, Arrays, Shape, Shapes, Weights, shapes_of
from triptych.describe.layers import initial_statistics, parameter_shapes
from triptych.describe.spec import Experiment
from triptych.describe.state import State

if TYPE_CHECKING:
    import torch
    from flax import linen, nnx

Canonical = dict[str, Array]


def canonical_of(state: State) -> Canonical:
    """The parameters and running statistics in a backend's state (`Backend.export_state`,
    `Checkpoint.state`); optimizer moments are left behind.
    """
    return state.parameters | state.statistics


def canonical_shapes(experiment: Experiment) -> dict[str, Shape]:
    """Canonical name to shape of everything that the experiment's network keeps."""
    layers = experiment.layers()
    return parameter_shapes(layers) | shapes_of(initial_statistics(layers))


def to_torch(
    canonical: Arrays, target: torch.nn.Module | Mapping[str, torch.Tensor], **options: Unpack[Options]
) -> dict[str, torch.Tensor]:
    """A state_dict for `target.load_state_dict(..., strict=True)`.

    `target` is a module of Linear, Conv2d and BatchNorm layers under any names, or its state_dict. The
    tensors have the source's dtype: load_state_dict rounds to the module's. Integer and boolean buffers stay
    as the target has them.
    """
    from parity.convert.plain_torch import state_of, to_tensor, weights_of

    theirs = weights_of(target)
    arrays = plan.make(shapes_of(canonical), theirs, **options).to_theirs(canonical)
    return {
        name: to_tensor(arrays[name]) if name in arrays else tensor
        for name, tensor in state_of(target).items()
    }


def from_torch(source: torch.nn.Module | Mapping[str, torch.Tensor], **options: Unpack[Options]) -> Canonical:
    """Canonical arrays of a module's parameters and running statistics; the inverse of `to_torch`."""
    from parity.convert.plain_torch import read, weights_of

    return to_canonical(read(weights_of(source)), **options)[0]


def to_flax(
    canonical: Arrays, target: nnx.Module | linen.Module | Mapping[str, Any], **options: Unpack[Options]
) -> dict[str, Any]:
    """Nested dicts of NumPy arrays, as the target has them.

    `target` is an NNX module of Linear, Conv and BatchNorm layers or its state (the result is for
    `nnx.replace_by_pure_dict` or `nnx.update`), or a linen module of images (B, 32, 32, 3) or its variables
    with `params` and perhaps `batch_stats` (the result is for `module.apply`). Shapes alone will do, as
    `jax.eval_shape` gives. The arrays have the source's dtype and are NumPy's, because JAX turns float64
    into float32 unless x64 is on.
    """
    from parity.convert.plain_flax import nested, weights_of

    made = plan.make(shapes_of(canonical), weights_of(target), **options)
    return nested(made.to_theirs(canonical))


def from_flax(source: nnx.Module | Mapping[str, Any], **options: Unpack[Options]) -> Canonical:
    """Canonical arrays of an NNX module, its pure dict, or linen's variables; the inverse of `to_flax`."""
    from parity.convert.plain_flax import read, weights_of

    return to_canonical(read(weights_of(source)), **options)[0]


def to_canonical(source: Weights, **options: Unpack[Options]) -> tuple[Canonical, Side]:
    """The canonical arrays of a foreign side, and how they belong together."""
    experiment, explicit = options.get("experiment"), options.get("explicit") or {}
    ours: Shapes
    if experiment is not None:
        ours = canonical_shapes(experiment)
    elif explicit and set(explicit) == set(source.names):  # a file of ours says it all
        ours = plan.shapes_by_name(source)
    else:
        ours = match.named(source)
    made = plan.make(ours, source, **options)
    return made.to_ours(source.arrays), Side(made, {k: np.asarray(a) for k, a in source.arrays.items()})
