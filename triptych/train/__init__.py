"""What trains: the loop, sweeps, resuming, signals."""
