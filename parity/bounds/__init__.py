"""The arithmetic of rounding: values that carry a proved limit of their error."""
