"""What to do with a trained run: classify images, look at its mistakes, compare it, export it."""
