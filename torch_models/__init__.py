"""The parity layer: the same networks in PyTorch, its own modules and optimizers, run eagerly."""
