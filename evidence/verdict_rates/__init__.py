"""How often `parity.verify` is wrong: layers with right forms, each of which must pass beside the first, and
plausible mistakes, each of which must fail beside it.
"""
