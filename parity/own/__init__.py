"""The reader's own layer or model under the same checks: `parity.verify` and `parity.verify_model`."""
