"""The layers. Each has a first form, other forms that are equal to it, and mistakes that people make.

Equal also where a divisor is 0 or a kink is hit: `verify` tries these, and says so where only they differ.
"""

from dataclasses import replace

from evidence.verdict_rates.by_hand import RIGHT, WRONG
from evidence.verdict_rates.form import Layer
from evidence.verdict_rates.norms import NORMS
from evidence.verdict_rates.pointwise import POINTWISE
from evidence.verdict_rates.products import PRODUCTS


def _with_numpy(layer: Layer) -> Layer:
    right = {"numpy": RIGHT[layer.name]} if layer.name in RIGHT else {}
    return replace(layer, right={**layer.right, **right}, wrong={**layer.wrong, **WRONG.get(layer.name, {})})


LAYERS = [_with_numpy(layer) for layer in (*POINTWISE, *NORMS, *PRODUCTS)]
