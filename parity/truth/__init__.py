"""The true value and the limit of everything that is compared, written with `parity.bounded`.

Every module opens with the formulas that a backend may use; they are those of the backends' own files,
and `either` names each algebraically equal form that counts as right. A truth maps inputs (canonical NumPy
arrays in the judged format), settings and a `Rounding` to one `Bounded` for each quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from parity.bounded import Bounded
from parity.rounding import Array, Rounding

Inputs = Mapping[str, Array]
Settings = Mapping[str, Any]
Truth = Callable[[Inputs, Settings, Rounding], dict[str, Bounded]]
