"""Weights between canonical arrays, torch and Flax, in memory: to_torch, from_torch, to_flax, from_flax.

Canonical arrays are a flat dict of NumPy arrays, `"<layer>.<parameter>"` to Linear weights (out, in),
convolution weights (out, in, kh, kw), bias, gamma, beta, running_mean, running_var; `canonical_of` takes
them out of a checkpoint's state. Every function moves and renames numbers and changes no bit of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.convert import naming
from parity.convert import plan as planning
from parity.convert.match import Explicit
from parity.convert.plan import Order, Plan
from parity.convert.units import BATCH_STATS, PARAMS, Arrays, Convention, Shape, Shapes, group
from triptych.describe.layers import initial_statistics, parameter_shapes
from triptych.describe.spec import Experiment
from triptych.describe.state import State
from triptych.errors import UserError

if TYPE_CHECKING:
    import torch
    from flax import nnx

Canonical = dict[str, np.ndarray[Any, Any]]


def canonical_of(state: State) -> Canonical:
    """The parameters and running statistics in a backend's state (`Backend.export_state`,
    `Checkpoint.state`); optimizer moments are left behind.
    """
    return state.parameters | state.statistics


def canonical_shapes(experiment: Experiment) -> dict[str, Shape]:
    """Canonical name to shape of everything that the experiment's network keeps."""
    layers = experiment.layers()
    statistics = {name: array.shape for name, array in initial_statistics(layers).items()}
    return parameter_shapes(layers) | statistics


def to_torch(
    canonical: Arrays,
    target: torch.nn.Module | Mapping[str, torch.Tensor],
    *,
    explicit: Explicit | None = None,
    flatten: Order = "channels-first",
    experiment: Experiment | None = None,
) -> dict[str, torch.Tensor]:
    """A state_dict for `target.load_state_dict(..., strict=True)`.

    Args:
        canonical: Canonical names to arrays.
        target: A module of Linear, Conv2d and BatchNorm layers under any names, or its state_dict.
        explicit: Their name to ours (`{"head": "linear2"}`), where shapes and order leave a choice.
        flatten: The order in which the module flattens images.
        experiment: Whose network it is; needed only where our own layers' names do not tell their order.

    Returns:
        The target's names to tensors of the source's dtype: load_state_dict rounds to the module's.

    Raises:
        UserError: The two do not fit, or fit in several ways; the message lists both sides.
    """
    from parity.convert.tensors import to_tensor

    plan = plan_for(_shapes(canonical), target, explicit=explicit, flatten=flatten, experiment=experiment)
    arrays, _ = planning.to_theirs(plan, canonical)
    names = _module_state(target)
    return {name: to_tensor(arrays[name]) for name in names}


def from_torch(
    source: torch.nn.Module | Mapping[str, torch.Tensor],
    *,
    experiment: Experiment | None = None,
    explicit: Explicit | None = None,
    flatten: Order = "channels-first",
) -> Canonical:
    """Canonical arrays of a module's parameters and running statistics; the inverse of `to_torch`.

    Args:
        source: A module of Linear, Conv2d and BatchNorm layers, or its state_dict.
        experiment: Names the canonical layers; None numbers them (conv1, conv1_norm, linear1, norm1, ...) in
            the module's order.
        explicit: Their name to ours, where shapes and order leave a choice.
        flatten: The order in which the module flattens images.

    Raises:
        UserError: The two do not fit, or fit in several ways.
    """
    from parity.convert.tensors import to_array

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

    Args:
        canonical: Canonical names to arrays.
        target: An NNX module of Linear, Conv and BatchNorm layers (the result is for
            `nnx.replace_by_pure_dict` or `nnx.update`), or linen's variables with `params` and perhaps
            `batch_stats` (the result is for `module.apply`). Shapes alone will do, as `jax.eval_shape` gives.
        explicit: Their name (`params/Dense_0`) to ours, where shapes and order leave a choice.
        flatten: The order in which the model flattens images; channels-last is what `x.reshape(len(x), -1)`
            of images (B, H, W, C) does.
        experiment: Whose network it is; needed only where our own layers' names do not tell their order.

    Returns:
        Arrays of the source's dtype. NumPy's, because JAX turns float64 into float32 unless x64 is on.

    Raises:
        UserError: The two do not fit, or fit in several ways.
    """
    from parity.convert.flax_side import nested

    plan = plan_for(_shapes(canonical), target, explicit=explicit, flatten=flatten, experiment=experiment)
    return nested(planning.to_theirs(plan, canonical)[0])


def from_flax(
    source: nnx.Module | Mapping[str, Any],
    *,
    experiment: Experiment | None = None,
    explicit: Explicit | None = None,
    flatten: Order = "channels-last",
) -> Canonical:
    """Canonical arrays of an NNX module or of linen's variables; the inverse of `to_flax`.

    Args:
        source: An NNX module or its pure dict, or linen's variables.
        experiment: Names the canonical layers. Flax does not keep the order of layers, so that None works
            only where their names tell it.
        explicit: Their name to ours, where shapes and order leave a choice.
        flatten: The order in which the model flattens images.

    Raises:
        UserError: The two do not fit, or fit in several ways.
    """
    convention, arrays = flax_arrays(source)
    return from_arrays(arrays, convention, False, experiment, explicit, flatten)[0]


def plan_for(
    ours: Shapes,
    target: Any,
    *,
    explicit: Explicit | None = None,
    flatten: Order | None = None,
    experiment: Experiment | None = None,
) -> Plan:
    """The conversion from canonical names to a module, a state_dict, or Flax's variables."""
    if _is_torch(target):
        convention: Convention = "torch"
        theirs = {name: tuple(tensor.shape) for name, tensor in _module_state(target).items()}
    else:
        convention, leaves = _flax_leaves(target)
        theirs = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    layers = None if experiment is None else experiment.layers()
    return planning.make(
        ours,
        theirs,
        convention,
        ordered=convention == "torch",
        flatten=flatten,
        layers=layers,
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
        units, known = naming.in_order(group(_shapes(arrays), convention), ordered)
        ours = naming.named(units, known)
    layers = None if experiment is None else experiment.layers()
    plan = planning.make(
        ours,
        _shapes(arrays),
        convention,
        ordered=ordered,
        flatten=flatten,
        layers=layers,
        explicit=explicit,
    )
    canonical, notes = planning.to_ours(plan, arrays)
    return canonical, plan, notes


def flax_arrays(tree: Any) -> tuple[Convention, Canonical]:
    """The convention and the flat arrays of an NNX module, a pure dict of one, or linen's variables."""
    convention, leaves = _flax_leaves(tree)
    return convention, {name: np.asarray(leaf) for name, leaf in leaves.items()}


def _flax_leaves(tree: Any) -> tuple[Convention, dict[str, Any]]:
    """The same, as they come; what `jax.eval_shape` gives has shapes alone."""
    from flax import nnx

    from parity.convert.flax_side import flat

    if isinstance(tree, nnx.Module | nnx.State):
        state = nnx.state(tree, nnx.Any(nnx.Param, nnx.BatchStat)) if isinstance(tree, nnx.Module) else tree
        tree = nnx.to_pure_dict(state)
    if not isinstance(tree, Mapping):
        raise UserError(f"convert: expected a model or its variables, got {type(tree).__name__}")
    convention: Convention = "flax-linen" if PARAMS in tree else "flax-nnx"
    kept = {key: tree[key] for key in (PARAMS, BATCH_STATS) if key in tree}
    return convention, flat(kept if convention == "flax-linen" else tree)


def _is_torch(target: Any) -> bool:
    if not isinstance(target, Mapping):
        return hasattr(target, "load_state_dict")
    return all(hasattr(value, "untyped_storage") for value in target.values())


def _module_state(source: Any) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else dict(source.state_dict())


def _shapes(arrays: Arrays) -> dict[str, Shape]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
