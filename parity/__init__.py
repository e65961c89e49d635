"""Do the backends agree, and how do you know: `python -m parity`. Does your own layer: `parity.verify`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.recordings.record import record
    from parity.verification.layer import Jax, Numpy, Report, Torch, verify
    from parity.verification.model import assert_port, verify_model
    from parity.verification.update import verify_update

_MODULES = {
    **dict.fromkeys(("Jax", "Numpy", "Report", "Torch", "verify"), "verification.layer"),
    **dict.fromkeys(("assert_port", "verify_model"), "verification.model"),
    "record": "recordings.record",
    "verify_update": "verification.update",
}
__all__ = [
    "Jax", "Numpy", "Report", "Torch", "assert_port", "record", "verify", "verify_model", "verify_update"
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Loaded when first asked for: `import parity` stays quick."""
    if name not in __all__:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(import_module(f"parity.{_MODULES[name]}"), name)
