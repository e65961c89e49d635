"""What an experiment costs, from its description alone: parameters, FLOPs, bytes.

One multiply-add counts as two FLOPs; only the products are counted, they dominate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from triptych.describe.layers import Layer, Shape
from triptych.describe.network import IMAGE_SHAPE, shapes
from triptych.describe.spec import Experiment

_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2}


@dataclass(frozen=True)
class LayerCost:
    """One layer: its output's shape without the batch, parameter count, forward FLOPs an image."""

    layer: Layer
    output: Shape
    parameters: int
    flops: int


def layer_costs(experiment: Experiment) -> list[LayerCost]:
    """The cost of every layer, input to logits."""
    layers = experiment.layers()
    return [
        LayerCost(
            layer,
            output,
            sum(math.prod(parameter.shape) for parameter in layer.traits.parameters.values()),
            2 * layer.traits.products * math.prod(output),
        )
        for layer, output in zip(layers, shapes(layers)[1:], strict=True)
    ]


def step_flops(experiment: Experiment) -> int:
    """FLOPs of one training step: forward, and twice that backward but for the first layer's dL/dx."""
    flops = [cost.flops for cost in layer_costs(experiment) if cost.flops]
    return experiment.data.batch_size * (3 * sum(flops) - flops[0])


def step_bytes(experiment: Experiment) -> int:
    """Bytes that one training step cannot but move to and from memory, nothing of it staying in a cache.

    Every parameter is read forward and backward, its gradient written and read, and the update reads and
    writes it and its optimizer slots. All that lies between two products is taken as fused into them, so only
    the products' outputs count: written and read forward, read again backward, their gradients written and
    read. Images are gathered as bytes, written prepared, and read forward and backward.
    """
    compute = _BYTES[experiment.training.dtype]
    costs = layer_costs(experiment)
    parameters = sum(cost.parameters for cost in costs) * max(compute, 4)
    values = sum(math.prod(cost.output) for cost in costs if cost.flops)
    image = math.prod(IMAGE_SHAPE)
    activations = experiment.data.batch_size * (5 * compute * values + (1 + 3 * compute) * image)
    return parameters * (6 + 2 * len(experiment.optimization.slots)) + activations


def memory_bytes(experiment: Experiment, images: int = 60_000) -> dict[str, int]:
    """Bytes by purpose: the images, parameters with gradients and optimizer, activations of a batch."""
    dtype = experiment.training.dtype
    master = max(_BYTES[dtype], 4)
    costs = layer_costs(experiment)
    parameters = sum(cost.parameters for cost in costs)
    activations = math.prod(IMAGE_SHAPE) + sum(math.prod(cost.output) for cost in costs)
    return {
        "images (uint8)": images * math.prod(IMAGE_SHAPE),
        "parameters": parameters * master,
        "gradients": parameters * master,
        "optimizer state": parameters * master * len(experiment.optimization.slots),
        "activations and their gradients": experiment.data.batch_size * activations * _BYTES[dtype] * 2,
    }


def steps_per_call(experiment: Experiment, device: str) -> int:
    """How many steps one backend call takes at most: 4 seconds' work at 100 GFLOP/s on a CPU, a second's at
    20 TFLOP/s on an accelerator (`device` as a backend names its own), 1 to 100 and 1 to 200.

    Few enough that a signal is answered soon, and the calls' tables of batches and dropout masks stay
    small; many enough that the call's own cost does not count: on a CPU JAX's working memory comes anew
    from the system in each, for the CNN half a step's time. Results do not depend on it.
    """
    flops, most = (4e11, 100) if device.startswith("cpu") else (2e13, 200)
    return max(1, min(most, round(flops / step_flops(experiment))))


def describe(experiment: Experiment) -> str:
    """Model, parameters, FLOPs and memory as a table for a terminal."""
    costs = layer_costs(experiment)
    batch = experiment.data.batch_size
    lines = [f"{'layer':<16} {'output':>12} {'parameters':>12} {'MFLOP/image':>12}"]
    for cost in costs:
        shape = "x".join(map(str, cost.output))
        name = cost.layer.name
        lines.append(f"{name:<16} {shape:>12} {cost.parameters:>12,} {cost.flops / 1e6:>12.3f}")
    total, flops = sum(c.parameters for c in costs), sum(c.flops for c in costs)
    lines.append(f"{'total':<16} {'':>12} {total:>12,} {flops / 1e6:>12.3f}")
    lines.append(f"training step at batch {batch}: {step_flops(experiment) / 1e9:.3f} GFLOP")
    lines += [f"memory, {what}: {size / 1e6:.1f} MB" for what, size in memory_bytes(experiment).items()]
    return "\n".join(lines)
