"""Do the backends agree, and how do you know: `python -m parity`. Does your own layer: `parity.verify`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.verification.layer import Jax, Numpy, Report, Torch, verify
    from parity.verification.model import assert_port, verify_model

__all__ = ["Jax", "Numpy", "Report", "Torch", "assert_port", "verify", "verify_model"]


def __getattr__(name: str) -> Any:
    """Loaded when first asked for: `import parity` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(
        import_module(
            "parity.verification.model"
            if name in ("assert_port", "verify_model")
            else "parity.verification.layer"
        ),
        name,
    )
