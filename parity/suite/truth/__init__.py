"""The true value and the limit of everything that is compared, written with `parity.bounds.bounded`.

Every module opens with the formulas that a backend may use; they are those of the backends' own files,
and `either` names each algebraically equal form that counts as right. A truth maps inputs (canonical NumPy
arrays in the judged format), settings and a `Rounding` to one `Bounded` for each quantity.
"""
