"""Whole training runs held against one another: growth of differences, and where they begin."""
