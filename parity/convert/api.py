"""Weights between canonical arrays, torch and Flax, in memory: to_torch, from_torch, to_flax, from_flax.

Canonical arrays are a flat dict of NumPy arrays, `"<layer>.<parameter>"` to Linear weights (out, in),
convolution weights (out, in, kh, kw), bias, gamma, beta, running_mean, running_var; `canonical_of` takes
them out of a checkpoint's state. Every function moves and renames numbers and changes no bit of them.

All four take the same options:

    experiment   Whose network it is. Names our layers where the other side's names do not tell their order,
                 which Flax's seldom do. from_torch without it numbers them (conv1, conv1_norm, linear1,
                 norm1, ...) in the module's order.
    explicit     Their name to ours, of a layer (`{"head": "linear2"}`) or a parameter, where shapes and order
                 leave a choice.
    flatten      The order in which the model flattens images: channels-first by default for torch and
                 channels-last for Flax, which is what `x.reshape(len(x), -1)` of (B, H, W, C) does.

All raise UserError where the two sides do not fit, or fit in several ways; the message lists both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.convert import naming
from parity.convert import plan as planning
from parity.convert.match import Explicit
from parity.convert.plan import Plan
from parity.convert.units import (
    BATCH_STATS,
    PARAMS,
    Array,
    Arrays,
    Convention,
    Order,
    Shape,
    Shapes,
    group,
    shapes_of,
)
from triptych.describe.layers import initial_statistics, parameter_shapes
from triptych.describe.spec import Experiment
from triptych.describe.state import State
from triptych.errors import UserError

if TYPE_CHECKING:
    import torch
    from flax import nnx

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
    canonical: Arrays,
    target: torch.nn.Module | Mapping[str, torch.Tensor],
    *,
    explicit: Explicit | None = None,
    flatten: Order = "channels-first",
    experiment: Experiment | None = None,
) -> dict[str, torch.Tensor]:
    """A state_dict for `target.load_state_dict(..., strict=True)`.

    `target` is a module of Linear, Conv2d and BatchNorm layers under any names, or its state_dict. The
    tensors have the source's dtype: load_state_dict rounds to the module's.
    """
    from parity.convert.plain_torch import to_tensor

    state = _module_state(target)
    plan = plan_for(shapes_of(canonical), "torch", shapes_of(state), experiment, explicit, flatten)
    arrays, _ = planning.to_theirs(plan, canonical)
    return {name: to_tensor(arrays[name]) for name in state}


def from_torch(
    source: torch.nn.Module | Mapping[str, torch.Tensor],
    *,
    experiment: Experiment | None = None,
    explicit: Explicit | None = None,
    flatten: Order = "channels-first",
) -> Canonical:
    """Canonical arrays of a module's parameters and running statistics; the inverse of `to_torch`."""
    from parity.convert.plain_torch import to_array

    state = {name: to_array(tensor) for name, tensor in _module_state(source).items()}
    return from_arrays(state, "torch", True, experiment, explicit, flatten)[0]


def to_flax(
    canonical: Arrays,
    target: nnx.Module | Mapping[str, Any],
    *,
    explicit: Explicit | None = None,
    flatten: Order = "channels-last",
    experiment: Experiment | None = None,
) -> dict[str, Any]:
    """Nested dicts of NumPy arrays, as the target has them.

    `target` is an NNX module of Linear, Conv and BatchNorm layers (the result is for
    `nnx.replace_by_pure_dict` or `nnx.update`), or linen's variables with `params` and perhaps `batch_stats`
    (the result is for `module.apply`). Shapes alone will do, as `jax.eval_shape` gives. The arrays have the
    source's dtype and are NumPy's, because JAX turns float64 into float32 unless x64 is on.
    """
    from parity.convert.plain_flax import nested

    convention, leaves = _flax_leaves(target)
    plan = plan_for(shapes_of(canonical), convention, shapes_of(leaves), experiment, explicit, flatten)
    return nested(planning.to_theirs(plan, canonical)[0])


def from_flax(
    source: nnx.Module | Mapping[str, Any],
    *,
    experiment: Experiment | None = None,
    explicit: Explicit | None = None,
    flatten: Order = "channels-last",
) -> Canonical:
    """Canonical arrays of an NNX module, its pure dict, or linen's variables; the inverse of `to_flax`."""
    convention, arrays = flax_arrays(source)
    return from_arrays(arrays, convention, False, experiment, explicit, flatten)[0]


# --- on flat names ---


def plan_for(
    ours: Shapes,
    convention: Convention,
    theirs: Shapes,
    experiment: Experiment | None,
    explicit: Explicit | None,
    flatten: Order | None,
    ordered: bool | None = None,
) -> Plan:
    """The conversion between canonical names and flat foreign ones, which come in the network's order if
    `ordered`; None: as a torch module's do.
    """
    return planning.make(
        ours,
        theirs,
        convention,
        ordered=convention == "torch" if ordered is None else ordered,
        flatten=flatten,
        layers=None if experiment is None else experiment.layers(),
        explicit=explicit,
    )


def from_arrays(
    arrays: Arrays,
    convention: Convention,
    ordered: bool,
    experiment: Experiment | None,
    explicit: Explicit | None,
    flatten: Order | None,
    names: Mapping[str, str] | None = None,
) -> tuple[Canonical, Plan, list[str]]:
    """Canonical arrays of flat foreign ones, with the plan and what should be said about it; `names` are
    theirs to ours where a file of ours says so.
    """
    if names is not None:
        explicit = dict(names) | dict(explicit or {})
    if experiment is not None:
        ours: Shapes = canonical_shapes(experiment)
    elif names is not None:
        units = group({name: arrays[name].shape for name in names if name in arrays}, convention)
        ours = {names[unit.names[role]]: shape for unit in units for role, shape in unit.shapes.items()}
    else:
        ours = naming.named(*naming.in_order(group(shapes_of(arrays), convention), ordered))
    plan = plan_for(ours, convention, shapes_of(arrays), experiment, explicit, flatten, ordered)
    canonical, notes = planning.to_ours(plan, arrays)
    return canonical, plan, notes


def flax_arrays(tree: Any) -> tuple[Convention, Canonical]:
    """The convention and the flat arrays of an NNX module, a pure dict of one, or linen's variables."""
    convention, leaves = _flax_leaves(tree)
    return convention, {name: np.asarray(leaf) for name, leaf in leaves.items()}


def _flax_leaves(tree: Any) -> tuple[Convention, dict[str, Any]]:
    """The same, as they come; what `jax.eval_shape` gives has shapes alone."""
    from flax import nnx

    from parity.convert.plain_flax import flat

    if isinstance(tree, nnx.Module | nnx.State):
        state = nnx.state(tree, nnx.Any(nnx.Param, nnx.BatchStat)) if isinstance(tree, nnx.Module) else tree
        tree = nnx.to_pure_dict(state)
    if not isinstance(tree, Mapping):
        raise UserError(f"convert: expected a model or its variables, got {type(tree).__name__}")
    if PARAMS in tree:
        return "flax-linen", flat({key: tree[key] for key in (PARAMS, BATCH_STATS) if key in tree})
    return "flax-nnx", flat(tree)


def _module_state(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else dict(source.state_dict())
