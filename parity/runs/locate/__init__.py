"""The first step, layer and kind in which two trainings differ by more than rounding: docs/locate.md.

report = locate(Side("numpy", ...), Side("torch", ...), steps=100)
report.divergence  # None, or what, where, whose, by how much
"""

from __future__ import annotations

from parity.runs.locate.findings import Divergence, Finding, Report
from parity.runs.locate.search import begin, locate
from parity.runs.locate.side import Side

__all__ = ["Divergence", "Finding", "Report", "Side", "begin", "locate"]
