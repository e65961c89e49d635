"""Whether an implementation is right, and how one knows: `parity.verify` and `parity.verify_model`."""
