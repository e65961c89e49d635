"""Weights moved between canonical safetensors, torch and Flax, with a proof that they compute the same.

In memory: `to_torch`, `from_torch`, `to_flax`, `from_flax`, `canonical_of`. From file to file:
`python -m parity convert`. What is called what and lies where: docs/convert.md.
"""

from parity.convert.api import canonical_of, canonical_shapes, from_flax, from_torch, to_flax, to_torch

__all__ = ["canonical_of", "canonical_shapes", "from_flax", "from_torch", "to_flax", "to_torch"]
