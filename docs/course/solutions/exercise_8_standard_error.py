"""The standard error of a mean."""

import numpy as np


def standard_error(values):
    return values.std(ddof=1) / np.sqrt(len(values))
