"""The one exception family for mistakes that a user can mend."""

from __future__ import annotations

from importlib import metadata


class UserError(Exception):
    """A user's mistake or a missing thing outside this program: expected, actual, next step.

    The command line prints the message without a traceback and leaves with exit code 2. Our own
    bugs stay ordinary exceptions and assertions.
    """


EXTRAS = {
    **dict.fromkeys(("jax", "jaxlib", "flax", "optax"), "jax"),
    "torch": "torch",
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
}
"""Package to the extra that brings it; any other comes with `train`."""
OURS = ("parity", "triptych", "numpy_ref", "jax_models", "torch_models")


def missing(error: ModuleNotFoundError) -> str:
    """Name the extra that brings a package; raises the error where the module is ours, which is a bug."""
    package = str(error.name).partition(".")[0]
    if package in OURS:
        raise error
    # Not by its name from a clone: an index may have another project under it.
    ours = "triptych" if any(metadata.distributions(name="triptych")) else "."
    return f"the package {package!r} is not installed: pip install '{ours}[{EXTRAS.get(package, 'train')}]'"
