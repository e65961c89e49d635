"""The text of a file that a student fills in."""

from __future__ import annotations


def stub(task: str, forward: str, returns: str) -> str:
    """A forward and a backward, each with its arguments and what it returns."""
    return f'''"""{task}"""

import numpy as np


def forward({forward}):
    """Return (y, cache): the output, and what backward needs of this pass."""
    raise NotImplementedError


def backward(dy, cache):
    """dy = dL/dy to {returns}."""
    raise NotImplementedError
'''
