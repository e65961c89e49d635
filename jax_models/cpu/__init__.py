"""What XLA is slow at on a CPU, written in products and slices that it is fast at."""
