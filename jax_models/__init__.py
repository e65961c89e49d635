"""The fast backend: Flax NNX modules and optax, compiled by XLA for CPU, GPU and TPU."""
