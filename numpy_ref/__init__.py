"""The reference: every gradient derived by hand and written in NumPy."""
