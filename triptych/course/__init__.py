"""Exercises that grade themselves: `triptych exercise`. The sessions are in docs/course."""
