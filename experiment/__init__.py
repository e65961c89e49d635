"""The experiment: its description, the study's catalogue, and the one training loop."""
