"""What trains and shows: one CIFAR-10 study in NumPy, JAX and PyTorch."""
