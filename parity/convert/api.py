"""Weights between canonical arrays, torch and Flax, in memory: to_torch, from_torch, to_flax, from_flax.

Canonical arrays are a flat dict of NumPy arrays, `"<layer>.<parameter>"` to Linear weights (out, in),
convolution weights (out, in, kh, kw), bias, gamma, beta, running_mean, running_var; `canonical_of` takes
them out of a checkpoint's state. Every function moves and renames numbers and changes no bit of them.

All four take the keyword arguments in `Options`, and raise UserError where the two sides do not fit, or fit
in several ways; the message lists both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

from parity.convert import match, plan, units
from parity.convert.plan import Options, Side
from parity.convert.units import Array, Arrays, Convention, Names, Shape, Shapes, shapes_of
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
    canonical: Arrays, target: torch.nn.Module | Mapping[str, torch.Tensor], **options: Unpack[Options]
) -> dict[str, torch.Tensor]:
    """A state_dict for `target.load_state_dict(..., strict=True)`.

    `target` is a module of Linear, Conv2d and BatchNorm layers under any names, or its state_dict. The
    tensors have the source's dtype: load_state_dict rounds to the module's.
    """
    from parity.convert.plain_torch import to_tensor

    names = Names("torch", shapes_of(_module_state(target)), ordered=True)
    made = plan.make(shapes_of(canonical), names, **options)
    arrays = made.to_theirs(canonical)
    return {name: to_tensor(arrays[name]) for name in names.shapes}


def from_torch(source: torch.nn.Module | Mapping[str, torch.Tensor], **options: Unpack[Options]) -> Canonical:
    """Canonical arrays of a module's parameters and running statistics; the inverse of `to_torch`."""
    from parity.convert.plain_torch import to_array

    arrays = {name: to_array(tensor) for name, tensor in _module_state(source).items()}
    return arrays_in("torch", arrays, True, **options)[0]


def to_flax(
    canonical: Arrays, target: nnx.Module | Mapping[str, Any], **options: Unpack[Options]
) -> dict[str, Any]:
    """Nested dicts of NumPy arrays, as the target has them.

    `target` is an NNX module of Linear, Conv and BatchNorm layers (the result is for
    `nnx.replace_by_pure_dict` or `nnx.update`), or linen's variables with `params` and perhaps `batch_stats`
    (the result is for `module.apply`). Shapes alone will do, as `jax.eval_shape` gives. The arrays have the
    source's dtype and are NumPy's, because JAX turns float64 into float32 unless x64 is on.
    """
    from parity.convert.plain_flax import nested

    convention, leaves = flax_arrays(target)
    names = Names(convention, shapes_of(leaves))
    made = plan.make(shapes_of(canonical), names, **options)
    return nested(made.to_theirs(canonical))


def from_flax(source: nnx.Module | Mapping[str, Any], **options: Unpack[Options]) -> Canonical:
    """Canonical arrays of an NNX module, its pure dict, or linen's variables; the inverse of `to_flax`."""
    return arrays_in(*flax_arrays(source), False, **options)[0]


def arrays_in(
    convention: Convention, arrays: Canonical, ordered: bool, **options: Unpack[Options]
) -> tuple[Canonical, Side]:
    """The canonical arrays of flat foreign ones, which come in the network's order if `ordered`."""
    names, explicit = Names(convention, shapes_of(arrays), ordered), options.get("explicit") or {}
    experiment = options.get("experiment")
    if experiment is not None:
        ours: Shapes = canonical_shapes(experiment)
    else:
        found = units.group(names)
        if all(name in explicit for unit in found for name in unit.names.values()):
            ours = {
                explicit[unit.names[role]]: shape for unit in found for role, shape in unit.shapes.items()
            }
        else:
            ours = match.named(*match.in_order(found, ordered))
    made = plan.make(ours, names, **options)
    return made.to_ours(arrays), Side(made, arrays)


def flax_arrays(tree: Any) -> tuple[Convention, dict[str, Any]]:
    """The convention and the flat leaves of an NNX module, a pure dict of one, or linen's variables; what
    `jax.eval_shape` gives has shapes alone.
    """
    from flax import nnx

    from parity.convert.plain_flax import flat

    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree, nnx.Any(nnx.Param, nnx.BatchStat))
    if isinstance(tree, nnx.State):
        tree = nnx.to_pure_dict(tree)
    if not isinstance(tree, Mapping):
        raise UserError(f"convert: expected a model or its variables, got {type(tree).__name__}")
    if units.PARAMS in tree:
        collections = (units.PARAMS, units.BATCH_STATS)
        return "flax-linen", flat({key: tree[key] for key in collections if key in tree})
    return "flax-nnx", flat(tree)


def _module_state(source: Any) -> dict[str, Any]:
    return dict(source if isinstance(source, Mapping) else source.state_dict())
