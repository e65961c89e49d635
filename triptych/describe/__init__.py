"""An experiment as data, and what every backend is asked for. Names no framework."""
