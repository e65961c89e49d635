"""The one exception for mistakes in a call of the library."""

from __future__ import annotations


class UsageError(Exception):
    """A mistake in a call, or a missing package: what was expected, what came, what to do next."""
