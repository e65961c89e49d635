"""The first step, layer and kind in which two trainings differ by more than rounding: docs/locate.md.

report = locate(Side("numpy", ...), Side("torch", ...), steps=100)
report.divergence  # None, or what, where, whose, by how much
"""

from parity.runs.locate.findings import Divergence, Report
from parity.runs.locate.search import locate
from parity.runs.locate.side import Side, begin

__all__ = ["Divergence", "Report", "Side", "begin", "locate"]
