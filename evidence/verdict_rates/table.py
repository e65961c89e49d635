"""The layers. Each has a first form, other forms that are equal to it, and mistakes that people make.

Equal also where a divisor is 0 or a kink is hit: `verify` tries these, and says so where only they differ.
"""

from evidence.verdict_rates.norms import NORMS
from evidence.verdict_rates.pointwise import POINTWISE
from evidence.verdict_rates.products import PRODUCTS

LAYERS = [*POINTWISE, *NORMS, *PRODUCTS]
