"""Do the backends agree, and how do you know."""
